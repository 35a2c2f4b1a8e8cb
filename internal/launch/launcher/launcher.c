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
 * Descriptors: 0, 1, 2 are the gateway's; 3 is this program's own file, closed at once; 4 is the control socket.
 *
 * The order (see launch.go, which is the other side): a header of four 32-bit numbers in the machine's order (magic, bytes of the
 * body, number of arguments, number of environment strings) with the descriptor of the binary as ancillary data, then the
 * body: NUL-terminated strings, the working directory first, then arguments, then environment. The answer is one record of three numbers (magic, step, errno), or the end of the file once exec succeeded.
 */

typedef unsigned int u32;
typedef unsigned long ulong;

#define MAGIC 0x31574c47u /* "GLW1" */
#define MAX_BODY (1u << 18)
#define MAX_STRINGS 1024

enum step { STEP_PARKED, STEP_ORDER, STEP_CHDIR, STEP_CLOSE, STEP_EXEC };

#define CONTROL 4

#if defined(__x86_64__)
enum { SYS_close = 3, SYS_write = 1, SYS_read = 0, SYS_recvmsg = 47, SYS_exit = 60, SYS_chdir = 80, SYS_prctl = 157,
       SYS_execveat = 322, SYS_close_range = 436 };

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
enum { SYS_close = 57, SYS_write = 64, SYS_read = 63, SYS_recvmsg = 212, SYS_exit = 93, SYS_chdir = 49, SYS_prctl = 167,
       SYS_execveat = 281, SYS_close_range = 436 };

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
#define EPROTO 71
#define AT_EMPTY_PATH 0x1000
#define MSG_CMSG_CLOEXEC 0x40000000
#define MSG_CTRUNC 0x8
#define PR_SET_DUMPABLE 4
#define PR_SET_NAME 15
#define CLOSE_RANGE_CLOEXEC 4
#define SOL_SOCKET 1
#define SCM_RIGHTS 1

struct iovec { void *base; ulong len; };
struct msghdr { void *name; u32 namelen, pad; struct iovec *iov; ulong iovlen; void *control; ulong controllen; u32 flags, pad2; };
struct cmsg { ulong len; int level, type; int fd; int pad; };

static u32 header[4];
static char body[MAX_BODY + 1]; /* bss: no page of it exists before the order arrives */
static char *argv[MAX_STRINGS + 1], *envp[MAX_STRINGS + 1];

static __attribute__((noreturn)) void leave(int status)
{
	for (;;)
		syscall5(SYS_exit, status, 0, 0, 0, 0);
}

static void say(u32 step, u32 err)
{
	u32 record[3] = { MAGIC, step, err };
	while (syscall5(SYS_write, CONTROL, (long)record, sizeof record, 0, 0) == -EINTR)
		;
}

static __attribute__((noreturn)) void fail(u32 step, long err)
{
	say(step, (u32)-err);
	leave(127);
}

/* receive_header waits for the order and gives the descriptor of the binary. The end of the file means that the warden is
 * gone or needs no standby any more: leave without a word. */
static int receive_header(void)
{
	struct cmsg c = { 0 };
	struct iovec iov = { header, sizeof header };
	struct msghdr m = { 0 };
	long n;

	m.iov = &iov;
	m.iovlen = 1;
	m.control = &c;
	m.controllen = sizeof c;
	do {
		m.controllen = sizeof c;
		n = syscall5(SYS_recvmsg, CONTROL, (long)&m, MSG_CMSG_CLOEXEC, 0, 0);
	} while (n == -EINTR);
	if (n == 0)
		leave(0);
	if (n != sizeof header || (m.flags & MSG_CTRUNC) || c.level != SOL_SOCKET || c.type != SCM_RIGHTS ||
	    c.len != sizeof(ulong) + 3 * sizeof(int))
		fail(STEP_ORDER, n < 0 ? n : -EPROTO);
	return c.fd;
}

static void receive_body(u32 len)
{
	u32 have = 0;
	while (have < len) {
		long n = syscall5(SYS_read, CONTROL, (long)(body + have), len - have, 0, 0);
		if (n == -EINTR)
			continue;
		if (n == 0)
			leave(0); /* the warden went away in the middle: as if it had never spoken */
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

__attribute__((noreturn, used)) void launcher(void)
{
	int exe;
	long err;
	char *p, *end, *cwd[2];

	syscall5(SYS_close, 3, 0, 0, 0, 0);
	syscall5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0); /* no ptrace, no core, and /proc/PID is root's */
	syscall5(SYS_prctl, PR_SET_NAME, (long)"gatewarden", 0, 0, 0);
	say(STEP_PARKED, 0);

	exe = receive_header();
	if (header[0] != MAGIC || header[1] > MAX_BODY || header[2] > MAX_STRINGS || header[3] > MAX_STRINGS || header[2] == 0)
		fail(STEP_ORDER, -EPROTO);
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
	err = syscall5(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC, 0, 0);
	if (err < 0)
		fail(STEP_CLOSE, err);
	err = syscall5(SYS_execveat, exe, (long)"", (long)argv, (long)envp, AT_EMPTY_PATH);
	fail(STEP_EXEC, err);
}
