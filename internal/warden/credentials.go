package warden

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/credential"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// mountCredentials reads p's credentials and gives their directory, for one process to be started; nil if p has none.
func mountCredentials(p *profile.Profile) (*os.File, error) {
	dir, err := credential.Mount(p.Credentials, p.Gateway.User, p.Gateway.Group)
	if err != nil {
		return nil, fmt.Errorf("[credentials] of profile %s: %w", p.Name, err)
	}
	return dir, nil
}

// entrust adds to an order what makes the directory of the credentials the process's: its descriptor after the others, and
// the variable that tells of it. Dir is nil if there are none.
func entrust(o *launch.Order, dir *os.File) {
	if dir == nil {
		return
	}
	o.Env = append(o.Env, credential.Variable(launch.FirstSocket+len(o.Sockets)))
	o.Sockets = append(o.Sockets, dir)
}

// noCore sees to it that nothing of a process that is to be given secrets comes into a core file. It is for a parked launcher,
// a child of ours that has not been reaped, so that its number is its own.
//
// A limit of 1 byte is one that the kernel keeps for this: there is no dump to a file, which would be smaller than a page, nor
// to a pipe, for which it heeds no other limit (fs/coredump.c; core(5)). The process can lower it to 0 and so have a pipe again,
// and dumps to a socket (Linux 6.16) may heed no limit: what a dump holds then is no memory (proc_pid_coredump_filter(5); the
// filter stays across execve(2) and is inherited).
func noCore(s *process.Process, p *profile.Profile) error {
	if !p.Secrets() {
		return nil
	}
	err := os.NewSyscallError("prlimit", unix.Prlimit(s.PID(), unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}, nil))
	if err == nil {
		err = s.Write("coredump_filter", "0")
		if errors.Is(err, process.ErrGone) && !s.Exited() {
			err = nil // there is no such file: a kernel that makes no core files (CONFIG_ELF_CORE)
		}
	}
	if err != nil {
		return code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot keep the secrets of process %d out of core files: %w", s.PID(), err)
	}
	return nil
}
