// Command build makes the packages of gatewarden for one architecture, with a bill of materials beside them, from the programs that
// `make build` has made. `make packages` calls it.
//
// It is a module of its own, so that what packaging needs is in nobody's way who builds or imports gatewarden.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

func run() error {
	var p release
	root := flag.String("root", ".", "the repository")
	described := flag.String("version", "", "what git describe says")
	epoch := flag.Int64("epoch", 0, "time of the source in seconds, as in SOURCE_DATE_EPOCH")
	flag.StringVar(&p.arch, "arch", "", "architecture, as Go names it")
	flag.StringVar(&p.bin, "bin", "", "directory of the programs")
	flag.StringVar(&p.out, "out", "", "directory for the packages")
	flag.Func("library", "NAME=VERSION of a Debian source package that is linked into the hook; may be repeated", func(s string) error {
		l, err := parseLibrary(s)
		p.libraries = append(p.libraries, l)
		return err
	})
	sums := flag.Bool("sums", false, "only write the checksums of what is in the directory for the packages")
	flag.Parse()
	if p.out == "" || flag.NArg() > 0 {
		return errors.New("-out is needed, and no other arguments are")
	}
	if *sums {
		return writeSums(p.out)
	}
	if p.arch == "" || p.bin == "" || *epoch <= 0 || len(p.libraries) == 0 {
		return errors.New("-arch, -bin, -epoch and -library are needed")
	}
	p.time = time.Unix(*epoch, 0).UTC()
	var err error
	if p.version, err = packageVersion(*described, p.time); err != nil {
		return err
	}
	for _, dir := range []*string{&p.bin, &p.out} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	if err := os.Chdir(*root); err != nil {
		return err
	}
	if p.staging, err = os.MkdirTemp("", "gatewarden-packages-"); err != nil {
		return err
	}
	defer os.RemoveAll(p.staging)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.RemoveAll(p.staging)
		os.Exit(1)
	}()
	return p.write()
}
