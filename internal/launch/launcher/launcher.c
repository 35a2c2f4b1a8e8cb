/*
 * The launcher: the first program that runs as the gateway, inside the container. libcontainer starts it with UID,
 * groups, capabilities, no_new_privs, seccomp and namespaces already final; it says so, and waits. The warden reads all of
 * these back from the kernel and then sends the order; the launcher replaces itself with the gateway's binary. So nothing
 * of the gateway runs before its posture is proven, and its PID never changes after.
 *
 * It is freestanding: no libc, no heap, no environment, no files, four system calls before it parks. What it costs while it
 * waits is a few pages, and there is nothing in it that the container could influence. It is run from a sealed memfd.
 *
 * Build: cc -static -nostdlib -ffreestanding -fno-stack-protector -fno-builtin -fno-asynchronous-unwind-tables -fno-pie -no-pie
 *           -Os -s -Wl,--build-id=none -Wl,-z,noseparate-code
 *
 * Descriptors: 0, 1, 2 are the gateway's; 3 is this program's own file, closed at once; 4 is the control socket; from 5 on
 * come held sockets. While it is parked it only keeps these open: should the warden and the gateway both be lost, the
 * next warden finds the sockets here. So a launcher that holds any does not leave when its warden does; it waits to be ended.
 *
 * The order (see launch.go, which is the other side): a header of six 32-bit numbers in the machine's order (magic, bytes of the
 * body, number of arguments, number of environment strings, number of sockets to pass on, flags) with the descriptors of the
 * binary and of these sockets as ancillary data, then the body: NUL-terminated strings, the working directory first, then
 * arguments, then environment. The sockets become descriptors 3, 4, ... of the gateway (sd_listen_fds(3)), and so does the
 * directory of its credentials, which comes with them; nothing else that was open here stays open. The answer is one record of three numbers (magic, step, errno), or the end of the file once exec
 * succeeded.
 *
 * With FLAG_NOTIFY the gateway gets a seccomp filter that hands its bind(2) calls to the warden (seccomp_unotify(2)). The
 * descriptor to answer them by goes to the warden with the record (magic, STEP_FILTER, 0), before the exec. The gateway keeps
 * it too, after its sockets: as long as somebody has it open, a bind waits for a lost warden's successor instead of failing.
 *
 * With FLAG_NO_CORE the gateway's limit of core files is 1 byte, soft and hard. There is no dump to a file then, since it would be
 * smaller than a page, and none to a pipe, for which the kernel heeds this limit and no other (fs/coredump.c, core(5)).
 */

typedef unsigned int u32;
typedef unsigned long ulong;

#define MAGIC 0x32574c47u /* "GLW2" */
#define MAX_BODY (1u << 18)
#define MAX_STRINGS 1024
#define MAX_SOCKETS 66 /* held ones, their carrier, and the directory of credentials */
#define FLAG_NOTIFY 1u
#define FLAG_NO_CORE 2u

enum step { STEP_PARKED, STEP_ORDER, STEP_CHDIR, STEP_SOCKETS, STEP_FILTER, STEP_CLOSE, STEP_CORE, STEP_EXEC };

#define FIRST 3 /* of the gateway's own descriptors, SD_LISTEN_FDS_START */
#define CONTROL 4
#define HELD 5

#if defined(__x86_64__)
enum { SYS_close = 3, SYS_read = 0, SYS_sendmsg = 46, SYS_recvmsg = 47, SYS_bind = 49, SYS_exit = 60, SYS_fcntl = 72,
       SYS_chdir = 80, SYS_prctl = 157, SYS_ppoll = 271, SYS_dup3 = 292, SYS_prlimit64 = 302, SYS_seccomp = 317, SYS_execveat = 322,
       SYS_close_range = 436 };
#define ARCH 0xc000003eu /* AUDIT_ARCH_X86_64 */

static long syscall5(long n, long a, long b, long c, long d, long e)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tand $-16, %rsp\n\tcall launcher\n");
#elif defined(__aarch64__)
enum { SYS_close = 57, SYS_read = 63, SYS_sendmsg = 211, SYS_recvmsg = 212, SYS_bind = 200, SYS_exit = 93, SYS_fcntl = 25,
       SYS_chdir = 49, SYS_prctl = 167, SYS_ppoll = 73, SYS_dup3 = 24, SYS_prlimit64 = 261, SYS_seccomp = 277, SYS_execveat = 281,
       SYS_close_range = 436 };
#define ARCH 0xc00000b7u /* AUDIT_ARCH_AARCH64 */

static long syscall5(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tbl launcher\n");
#else
#error "the launcher knows x86_64 and aarch64"
#endif

#define EINTR 4
#define EINVAL 22
#define EPROTO 71
#define AT_EMPTY_PATH 0x1000
#define MSG_CMSG_CLOEXEC 0x40000000
#define MSG_CTRUNC 0x8
#define PR_SET_DUMPABLE 4
#define PR_SET_NAME 15
#define CLOSE_RANGE_CLOEXEC 4
#define RLIMIT_CORE 4
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define F_GETFD 1
#define F_DUPFD_CLOEXEC 1030
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1 << 3)
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1 << 5) /* Linux 5.19: a signal doesn't interrupt a bind that is being answered */
#define SECCOMP_RET_USER_NOTIF 0x7fc00000u
#define SECCOMP_RET_ALLOW 0x7fff0000u

struct iovec { void *base; ulong len; };
struct msghdr { void *name; u32 namelen, pad; struct iovec *iov; ulong iovlen; void *control; ulong controllen; u32 flags, pad2; };
struct cmsg { ulong len; int level, type; int fd[1 + MAX_SOCKETS]; };
#define CMSG_LEN(n) (sizeof(ulong) + 2 * sizeof(int) + (n) * sizeof(int))
struct filter { unsigned short code; unsigned char jt, jf; u32 k; };
struct fprog { unsigned short len; const struct filter *filter; };

static int control = CONTROL;
static u32 header[6];
static struct cmsg rights;
static char body[MAX_BODY + 1]; /* bss: no page of it exists before the order arrives */
static char *argv[MAX_STRINGS + 1], *envp[MAX_STRINGS + 1];

static __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		syscall5(SYS_exit, status, 0, 0, 0, 0);
}

/* say sends one record, and fd with it unless it is negative. */
static void say(u32 step, u32 err, int fd)
{
	u32 record[3] = { MAGIC, step, err };
	struct { ulong len; int level, type, fd, pad; } c = { CMSG_LEN(1), SOL_SOCKET, SCM_RIGHTS, fd, 0 };
	struct iovec iov = { record, sizeof record };
	struct msghdr m = { 0 };

	m.iov = &iov;
	m.iovlen = 1;
	if (fd >= 0) {
		m.control = &c;
		m.controllen = sizeof c;
	}
	while (syscall5(SYS_sendmsg, control, (long)&m, 0, 0, 0) == -EINTR)
		;
}

static __attribute__((noreturn)) void fail(u32 step, long err)
{
	say(step, (u32)-err, -1);
	leave(127);
}

/* abandoned is what becomes of a launcher whose warden is gone, or needs no standby any more: it leaves without a word,
 * unless it holds sockets. */
static __attribute__((noreturn)) void abandoned(void)
{
	while (syscall5(SYS_fcntl, HELD, F_GETFD, 0, 0, 0) >= 0)
		syscall5(SYS_ppoll, 0, 0, 0, 0, 0); /* until a signal ends it; one that does not only wakes it */
	leave(0);
}

/* receive_header waits for the order. The descriptors that came with it are in rights. */
static void receive_header(void)
{
	struct iovec iov = { header, sizeof header };
	struct msghdr m = { 0 };
	long n;

	m.iov = &iov;
	m.iovlen = 1;
	m.control = &rights;
	do {
		m.controllen = sizeof rights;
		n = syscall5(SYS_recvmsg, CONTROL, (long)&m, MSG_CMSG_CLOEXEC, 0, 0);
	} while (n == -EINTR);
	if (n == 0)
		abandoned();
	if (n != sizeof header || (m.flags & MSG_CTRUNC) || rights.level != SOL_SOCKET || rights.type != SCM_RIGHTS ||
	    header[0] != MAGIC || header[1] > MAX_BODY || header[2] > MAX_STRINGS || header[3] > MAX_STRINGS || header[2] == 0 ||
	    header[4] > MAX_SOCKETS || (header[5] & ~(FLAG_NOTIFY | FLAG_NO_CORE)) || rights.len != CMSG_LEN(1 + header[4]))
		fail(STEP_ORDER, n < 0 ? n : -EPROTO);
}

static void receive_body(u32 len)
{
	u32 have = 0;
	while (have < len) {
		long n = syscall5(SYS_read, CONTROL, (long)(body + have), len - have, 0, 0);
		if (n == -EINTR)
			continue;
		if (n == 0)
			abandoned(); /* the warden went away in the middle; sockets that came with the header are held like others */
		if (n < 0)
			fail(STEP_ORDER, n);
		have += (u32)n;
	}
	body[len] = 0;
}

/* take splits n strings off the body. */
static char *take(char *p, char *end, char **list, u32 n)
{
	u32 i;
	for (i = 0; i < n; i++) {
		if (p >= end)
			fail(STEP_ORDER, -EPROTO);
		list[i] = p;
		while (*p)
			p++;
		p++;
	}
	list[n] = 0;
	return p;
}

/* above gives a descriptor from base on for fd. */
static int above(int fd, int base)
{
	long n = fd;
	if (fd < base) {
		n = syscall5(SYS_fcntl, fd, F_DUPFD_CLOEXEC, base, 0, 0);
		if (n < 0)
			fail(STEP_SOCKETS, n);
	}
	return (int)n;
}

static void put(int fd, int at)
{
	long err = syscall5(SYS_dup3, fd, at, 0, 0, 0);
	if (err < 0)
		fail(STEP_SOCKETS, err);
}

/* notify installs the filter and gives the descriptor that answers it. no_new_privs is on, so no capability is needed. */
static int notify(void)
{
	static const struct filter program[] = {
		{ 0x20, 0, 0, 4 },        /* load the architecture (struct seccomp_data) */
		{ 0x15, 0, 3, ARCH },     /* another one's calls are let through */
		{ 0x20, 0, 0, 0 },        /* load the number of the call */
		{ 0x15, 0, 1, SYS_bind },
		{ 0x06, 0, 0, SECCOMP_RET_USER_NOTIF },
		{ 0x06, 0, 0, SECCOMP_RET_ALLOW },
	};
	static const struct fprog prog = { sizeof program / sizeof program[0], program };
	long fd = syscall5(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			   SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, (long)&prog, 0, 0);
	if (fd == -EINVAL)
		fd = syscall5(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&prog, 0, 0);
	if (fd < 0)
		fail(STEP_FILTER, fd);
	return (int)fd;
}

/* no_core sets the limit. A hard limit of 0 stays, which it takes a capability to raise. */
static void no_core(void)
{
	static const struct rlimit { ulong cur, max; } one = { 1, 1 };
	struct rlimit now;
	long err = syscall5(SYS_prlimit64, 0, RLIMIT_CORE, 0, (long)&now, 0);
	if (err == 0 && now.max > 0)
		err = syscall5(SYS_prlimit64, 0, RLIMIT_CORE, (long)&one, 0, 0);
	if (err < 0)
		fail(STEP_CORE, err);
}

__attribute__((noreturn, used)) void launcher(void)
{
	int exe, listener = -1, i, sockets, next;
	long err;
	char *p, *end, *cwd[2];

	syscall5(SYS_close, 3, 0, 0, 0, 0);
	syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* no ptrace, no core, and /proc/PID is root's */
	syscall5(SYS_prctl, PR_SET_NAME, (long)"gatewarden", 0, 0, 0);
	say(STEP_PARKED, 0, -1);

	receive_header();
	receive_body(header[1]);
	end = body + header[1];
	p = take(body, end, cwd, 1);
	p = take(p, end, argv, header[2]);
	p = take(p, end, envp, header[3]);
	if (p != end)
		fail(STEP_ORDER, -EPROTO);

	err = syscall5(SYS_chdir, (long)cwd[0], 0, 0, 0, 0);
	if (err < 0)
		fail(STEP_CHDIR, err);

	/* Everything out of the way of the places to fill, then the places. */
	sockets = (int)header[4];
	next = FIRST + sockets + 1;
	control = above(CONTROL, next);
	for (i = 0; i < 1 + sockets; i++)
		rights.fd[i] = above(rights.fd[i], next);
	exe = rights.fd[0];
	if (header[5] & FLAG_NOTIFY) {
		listener = above(notify(), next);
		say(STEP_FILTER, 0, listener);
	}
	for (i = 0; i < sockets; i++)
		put(rights.fd[1 + i], FIRST + i);
	if (listener >= 0)
		put(listener, FIRST + sockets);
	else
		syscall5(SYS_close, FIRST + sockets, 0, 0, 0, 0);

	err = syscall5(SYS_close_range, next, ~0u, CLOSE_RANGE_CLOEXEC, 0, 0);
	if (err < 0)
		fail(STEP_CLOSE, err);
	if (header[5] & FLAG_NO_CORE)
		no_core();
	err = syscall5(SYS_execveat, exe, (long)"", (long)argv, (long)envp, AT_EMPTY_PATH);
	fail(STEP_EXEC, err);
}
