package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/notary"
)

// verify is `gatewarden audit verify`, which has looked up what is to be verified: each LOG is "audit:", "journal:" or "file:"
// and an absolute path. Without any it tells whether the keys can be used.
func verify(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	asJSON := flags.Bool("json", false, "")
	var opt notary.Options
	flags.BoolVar(&opt.AllowUnsigned, "allow-unsigned", false, "")
	var public, private []string
	flags.Func("public-key", "", func(s string) error { public = append(public, s); return nil })
	flags.Func("key", "", func(s string) error { private = append(private, s); return nil })
	if flags.Parse(args) != nil || flags.NArg()+len(public)+len(private) == 0 {
		return usage()
	}
	if err := install.Harden(); err != nil {
		fmt.Fprintln(stderr, "gatewarden:", err)
		return code.ExitRefused
	}
	exit := code.ExitOK
	complain := func(err error) {
		fmt.Fprintf(stderr, "gatewarden: %v\n", err)
		exit = code.ExitRefused
	}
	for _, path := range public {
		k, err := notary.ReadPublicKeyFile(path)
		if err != nil {
			fmt.Fprintf(stderr, "gatewarden: %v\n", err)
			return code.ExitRefused // nothing else was asked for
		}
		opt.Keys = append(opt.Keys, k)
	}
	for _, path := range private {
		k, err := notary.ReadKey(path)
		if err != nil {
			complain(fmt.Errorf("%w; signatures are not verified", err))
			continue
		}
		opt.Keys = append(opt.Keys, k.Public().(ed25519.PublicKey))
	}
	broken := false
	for _, arg := range flags.Args() {
		log, part, ok := chainOf(arg)
		if !ok {
			return usage()
		}
		opt.Part = part
		r, err := examine(log, part, opt)
		if err != nil {
			complain(err)
		}
		broken = broken || r.Broken != nil
		switch {
		case *asJSON:
			printReport(stdout, r, err)
		case err == nil:
			describe(stdout, r)
		}
	}
	if broken {
		return code.ExitFailed
	}
	return exit
}

// chainOf reads one LOG argument. A part may begin anywhere.
func chainOf(arg string) (log chain.Log, part, ok bool) {
	kind, path, _ := strings.Cut(arg, ":")
	switch {
	case !filepath.IsAbs(path):
	case kind == "audit":
		return audit.Log(filepath.Dir(path)), false, true
	case kind == "journal":
		return journal.Log(path), false, true
	case kind == "file":
		log := audit.Log(filepath.Dir(path)) // the larger bounds
		log.Path = path
		return log, true, true
	}
	return chain.Log{}, false, false
}

func examine(log chain.Log, part bool, opt notary.Options) (notary.Report, error) {
	if part {
		if _, err := os.Lstat(log.Path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("cannot verify %s: there is no such file", log.Path)
			}
			return notary.Report{Log: log.Path, Notes: []string{}}, err
		}
	}
	return notary.Verify(log, opt)
}

func printReport(w io.Writer, r notary.Report, err error) {
	out := struct {
		notary.Report
		Error string `json:"error,omitempty"`
	}{Report: r}
	if err != nil {
		out.Error = err.Error()
	}
	json.NewEncoder(w).Encode(out)
}

// describe prints a report for people.
func describe(w io.Writer, r notary.Report) {
	switch b := r.Broken; {
	case b != nil:
		fmt.Fprintf(w, "%s: BROKEN (%s)\n  at        %s line %d", r.Log, b.Kind, b.File, b.Line)
		if b.Seq != 0 {
			fmt.Fprintf(w, ", seq %d", b.Seq)
		}
		fmt.Fprintf(w, "\n  expected  %s\n  found     %s\n  meaning   %s\n", b.Expected, b.Found, b.Meaning)
		if b.Kind == notary.Unsigned {
			fmt.Fprintf(w, "  chain     intact: %d lines, up to seq %d\n", r.Lines, r.LastSeq)
		} else {
			fmt.Fprintf(w, "  good      %d line(s), up to seq %d\n", r.Lines, r.LastSeq)
		}
	case r.Lines == 0:
		fmt.Fprintf(w, "%s: intact: no lines\n", r.Log)
	default:
		fmt.Fprintf(w, "%s: intact: %d lines in %d file(s), seq %d to %d, %d signed%s; the last is %s\n", r.Log, r.Lines, r.Files, r.FirstSeq, r.LastSeq, r.Signed, verified(r), r.Last)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "  note      %s\n", n)
	}
}

func verified(r notary.Report) string {
	switch {
	case r.Signed == 0:
		return ""
	case r.Verified:
		return " and verified"
	}
	return " (not verified: no key was given)"
}
