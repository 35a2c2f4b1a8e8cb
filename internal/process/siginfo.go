package process

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfo is the kernel's siginfo_t as waitid(2) fills it in, which golang.org/x/sys does not lay open. The layout is the
// same on all 64-bit architectures except MIPS: three ints, padding, then the SIGCHLD members.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [128 - 28]byte
}

func (s *siginfo) unix() *unix.Siginfo { return (*unix.Siginfo)(unsafe.Pointer(s)) }

// si_code of a SIGCHLD (sigaction(2)).
const (
	cldKilled = 2
	cldDumped = 3
)

func (s *siginfo) exit() Exit {
	switch s.code {
	case cldKilled, cldDumped:
		return Exit{Code: -1, Signal: unix.Signal(s.status)}
	}
	return Exit{Code: int(s.status)}
}
