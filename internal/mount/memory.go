package mount

import (
	"os"

	"golang.org/x/sys/unix"
)

// Memory makes an empty filesystem in memory, of kind tmpfs or ramfs and with its settings (tmpfs(5)), and gives a descriptor of its
// root directory. It is mounted nowhere: no mount table shows it, nobody but this process can reach it, and it ends with the
// last descriptor of it. Nothing on it is executed. It needs Linux 5.2 (fsopen(2), fsmount(2)).
func Memory(kind string, settings map[string]string) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen "+kind, err)
	}
	defer unix.Close(fs)
	for key, value := range settings {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return nil, os.NewSyscallError("fsconfig "+key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig create", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), kind), nil
}
