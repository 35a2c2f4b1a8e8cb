/*
 * floor: the least that a restart with a held listener can cost. A parent that does nothing else holds a listening socket,
 * starts a program with it (sd_listen_fds(3)), and for each line on its standard input ends the program with SIGTERM, waits for
 * its end, and starts it again. It checks nothing and proves nothing.
 *
 *	floor ADDRESS PORT PROGRAM [ARGUMENT]…      ADDRESS is IPv4; standard output gets the PID of each program
 *
 * At the end of its standard input, or of whoever started it, it ends the program and itself.
 *
 * Build: cc -static -O2
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTENER 3
#define BACKLOG 4096

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static pid_t start(char **argv)
{
	pid_t pid = fork();
	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		char number[16];
		snprintf(number, sizeof(number), "%d", (int)getpid());
		setenv("LISTEN_PID", number, 1);
		setenv("LISTEN_FDS", "1", 1);
		setenv("LISTEN_FDNAMES", "api", 1);
		/* With the parent gone nobody would end it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(argv[0], argv);
		fail(argv[0]);
	}
	printf("%d\n", (int)pid);
	fflush(stdout);
	return pid;
}

static void end(pid_t pid)
{
	int status, fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		fail("pidfd_open");
	if (syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) < 0 && errno != ESRCH)
		fail("pidfd_send_signal");
	close(fd);
	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid");
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	char c;
	pid_t pid;
	int one = 1, s;

	if (argc < 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "usage: floor ADDRESS PORT PROGRAM [ARGUMENT]...\n");
		return 2;
	}
	to.sin_port = htons((unsigned short)atoi(argv[2]));
	s = socket(AF_INET, SOCK_STREAM, 0);
	if (s < 0)
		fail("socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(s, (struct sockaddr *)&to, sizeof(to)) < 0 || listen(s, BACKLOG) < 0)
		fail("bind and listen");
	if (s != LISTENER) {
		if (dup2(s, LISTENER) < 0)
			fail("dup2");
		close(s);
	}
	pid = start(argv + 3);
	while (read(0, &c, 1) == 1) {
		if (c != '\n')
			continue;
		end(pid);
		pid = start(argv + 3);
	}
	end(pid);
	return 0;
}
