package warden

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/credential"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// mountCredentials reads p's credentials and gives their directory, for one process to be started; nil if p has none.
func (w *Warden) mountCredentials(p *profile.Profile) (*os.File, error) {
	host, err := posture.Host(p, w.maps)
	if err != nil {
		return nil, err
	}
	dir, err := credential.Mount(p.Credentials, host.UID, host.GID)
	if err != nil {
		return nil, fmt.Errorf("[credentials] of profile %s: %w", p.Name, err)
	}
	return dir, nil
}

// unread refuses a start whose files of secrets cannot be read. One that is not there, or changes, may be in the midst of being
// replaced: that passes, so a start that nobody asked for is tried again by its policy.
func unread(what string, err error) *code.Error {
	e := code.Errorf(code.PreflightFailed, code.StagePreflight, "%s: %w", what, err)
	e.Retryable = errors.Is(err, fs.ErrNotExist) || errors.Is(err, trusted.ErrChanged)
	return e
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

// noCore sees to it that the memory of a process that is to be given secrets never comes into a core file. It is for a parked
// launcher, and goes before its order.
//
// The launcher takes itself the limit by which the kernel makes no core at all. The limit can be lost: the process lowers it to
// 0, for which a dump to a pipe is not held back; it was 0 before; or a dump to a socket (Linux 6.16) does not heed it. What such
// a dump has then is no memory (proc_pid_coredump_filter(5); the filter stays across execve(2) and is inherited).
func noCore(o *launch.Order, s *process.Process, p *profile.Profile) error {
	if !p.Secrets() {
		return nil
	}
	o.NoCore = true
	err := s.Write("coredump_filter", "0")
	if err != nil && !(errors.Is(err, process.ErrGone) && !s.Exited()) { // no such file: a kernel that makes no core files (CONFIG_ELF_CORE)
		return code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot keep the secrets of process %d out of core files: %w", s.PID(), err)
	}
	return nil
}
