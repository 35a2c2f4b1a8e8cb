// Command gatewarden-hook is the OCI hook that installs a gateway, and the warden that it starts.
//
//	gatewarden-hook createRuntime|poststop [--config FILE] [--namespace NS] [--profile NAME]   run by an OCI runtime
//	gatewarden-hook version
//
// The other modes are its own: "warden [DIR]" is the supervisor of one container, "join" puts a launcher into it, and
// "init" is libcontainer's half of that, inside the container's namespaces; "verify" is `gatewarden audit verify`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/join"
	"github.com/gatewarden/gatewarden/internal/version"
	"github.com/gatewarden/gatewarden/internal/warden"
)

// libcontainer's init has to take over before anything else of this program runs.
func init() {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		join.Init()
	}
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 0 {
		return usage()
	}
	switch args[0] {
	case "help", "--help", "-h":
		fmt.Print(helpText)
		return 0
	case "version", "--version", "-v":
		fmt.Println("gatewarden-hook", version.Version)
		return 0
	case "createRuntime":
		return hook(args, install.CreateRuntime)
	case "poststop":
		return hook(args, install.Poststop)
	case "warden":
		dir := "" // it has begun with the hook, which does not know its container yet
		switch len(args) {
		case 1:
		case 2:
			dir = args[1]
		default:
			return usage()
		}
		// Whoever starts it: a hook of the container's, or a command that replaces a lost one.
		if err := install.Harden(); err != nil {
			fmt.Fprintln(os.Stderr, "gatewarden-hook warden:", err)
			return 1
		}
		return warden.Main(dir, version.Version)
	case "join":
		return join.Main()
	case "verify":
		return verify(args[1:], os.Stdout, os.Stderr)
	}
	return usage()
}

// hook runs one hook verb. Its standard error is the runtime's, and by way of that the user's: one line.
func hook(args []string, verb func(io.Reader, config.Config, install.Options) error) int {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "")
	opt := install.Options{Early: early()}
	flags.StringVar(&opt.Namespace, "namespace", "", "")
	flags.StringVar(&opt.Profile, "profile", "", "")
	err := flags.Parse(args[1:])
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil {
		err = install.Harden()
	}
	var cfg config.Config
	// Who may not install anything may not be able to read the settings either, and is to be told the former.
	if err == nil && install.Privileged() == nil {
		cfg, err = config.Load(*path)
	}
	if err == nil {
		if err = verb(os.Stdin, cfg, opt); err != nil {
			// Standard error has it too, if the runtime lets anybody read that.
			_ = install.LogRefusal(cfg, args[0], err)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, refusal(err))
		return 1
	}
	return 0
}

// refusal is what the user of the container reads: the code stands at the end, as in all our messages.
func refusal(err error) string {
	if e, ok := errors.AsType[*code.Error](err); ok {
		return fmt.Sprintf("gatewarden: %v (%s)", err, e.Code)
	}
	return fmt.Sprintf("gatewarden: %v", err)
}

func usage() int {
	fmt.Fprint(os.Stderr, usageLine+"An OCI runtime calls it; see gatewarden-hook(8). To control a gateway, use gatewarden.\n")
	return 2
}
