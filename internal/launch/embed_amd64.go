package launch

import "embed"

// The launcher is compiled by the Makefile before the Go build. Of another architecture's, which may be there too, nothing gets in.
//
//go:embed bin/*-amd64
var built embed.FS
