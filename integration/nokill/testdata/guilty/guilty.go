// Package guilty does everything that the check forbids.
package guilty

import (
	"context"
	"os"
	"os/exec"
	"syscall"

	. "golang.org/x/sys/unix"
	alias "golang.org/x/sys/unix"
)

// Do does it.
func Do(pid int, cmd *exec.Cmd) {
	kill := alias.Kill
	_ = kill(pid, 0)
	_ = Tgkill(pid, pid, 0)
	_ = syscall.Kill(pid, 0)
	p, _ := os.FindProcess(pid)
	_ = p.Kill()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_, _, _ = alias.RawSyscall(alias.SYS_KILL, uintptr(pid), 0, 0)
	_ = exec.CommandContext(context.Background(), "/usr/bin/pkill", "name").Run()
}
