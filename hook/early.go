package main

// #include "early.h"
import "C"

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/install"
)

// early gives the warden that began with this hook (early.c), or nil.
func early() *install.Early {
	if C.early.pid < 0 {
		return nil
	}
	fd := int(C.early.socket)
	// So that a read of it can have a deadline.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil
	}
	return &install.Early{PID: int(C.early.pid), Socket: os.NewFile(uintptr(fd), "early warden")}
}
