// Package version holds the version of gatewarden's programs.
package version

// Version is set when a program is linked, with -ldflags "-X github.com/gatewarden/gatewarden/internal/version.Version=…".
var Version = "devel"
