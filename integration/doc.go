// Package integration tests gatewarden against a real containerd with a real runc, on namespaces, mounts, cgroups and
// sockets of its own.
//
// Its tests have the build tag "integration", because they need root and what `make toolchain build testbin` builds:
//
//	make integration                            all of them
//	make integration INTEGRATION_RUN=Restart    those whose names match
package integration
