// The warden begins with the hook that will need it, not when the hook comes to need it.
//
// Much of what a gateway adds to a container's create is programs that start one after the other: the hook, then the warden, then
// the joiner. Each of them works for some milliseconds before Go code of ours can run (docs/benchmarks.md, "Where the time goes"),
// on one core, while the runtime waits and the others are idle. So this is a constructor, as libcontainer's nsenter is.
//
// What is started has nothing of the hook's but one end of a socket pair, and touches nothing until the hook has sent it a container
// (internal/install/early.go). If the hook ends without that, it ends too.

#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "early.h"

struct early early = {.socket = -1, .pid = -1};

// The warden's descriptors (internal/install/record.go).
enum { HANDSHAKE = 3, LOCK = 4 };

// Between vfork(2) and execve(2) only system calls are made, and nothing of the parent's memory is changed.
static void become_warden(int null, int handshake)
{
	static char *const args[] = {"gatewarden-hook", "warden", NULL}, *const env[] = {NULL};

	// The order matters: both descriptors are above 4 (see start).
	if (setsid() < 0 || chdir("/") < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    dup2(handshake, HANDSHAKE) < 0 || dup2(null, LOCK) < 0 || syscall(SYS_close_range, LOCK + 1, ~0U, 0) < 0)
		_exit(127);
	execve("/proc/self/exe", args, env);
	_exit(127);
}

// above gives a duplicate of fd that is in the way of no descriptor of the warden's, nor of a standard one that the hook was started
// without, and closes fd.
static int above(int fd)
{
	int other = fcntl(fd, F_DUPFD_CLOEXEC, LOCK + 1);
	close(fd);
	return other;
}

// A failure is no error: the hook starts the warden itself then.
__attribute__((constructor)) static void start(int argc, char **argv)
{
	int pair[2], null, ours, theirs;

	if (argc < 2 || strcmp(argv[1], "createRuntime") != 0)
		return;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return;
	ours = above(pair[0]);
	theirs = above(pair[1]);
	null = above(open("/dev/null", O_RDWR | O_CLOEXEC));
	if (ours >= 0 && theirs >= 0 && null >= 0) {
		pid_t pid = vfork();
		if (pid == 0)
			become_warden(null, theirs);
		if (pid > 0)
			early = (struct early){.socket = ours, .pid = pid};
	}
	if (early.pid < 0)
		close(ours);
	close(theirs);
	close(null);
}
