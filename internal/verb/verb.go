// Package verb carries out what `gatewarden VERB …` asks for: it reads the arguments, asks the container's warden and
// prints the answer. The operator's command and the shim's virtual exec (`… exec … gatewarden VERB`) both use it, so
// that they print and exit alike.
//
// Arguments are read with the standard library's flag package: cobra would add 600 kB to the shim's binary and 300 kB
// to its resident memory, once per pod, for seven verbs.
package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// Env is what a verb acts on and with. Everything comes from here: a verb reads no environment, argument or descriptor
// of the process that it runs in, because in the shim those are the shim's.
type Env struct {
	Config    config.Config
	Target    *gateways.Target // the container of a virtual exec; then no container argument is accepted. nil in the command
	Namespace string           // where a container named by its ID alone is looked for first; empty: "default"

	Stdin          io.Reader // may be nil; no verb reads it
	Stdout, Stderr io.Writer
	Terminal       bool // Stdout is a terminal: what the container wrote is made harmless, progress rewrites its line
	Width          int  // columns of that terminal; 0: unknown, and nothing is cut

	Via string // receipt's requested_by.via: "cli", "task-exec"
	UID int    // host UID of who asks; the warden takes it from the socket, this is for messages

	More []Command // verbs that only this caller offers
}

// Command is one verb.
type Command struct {
	Name    string
	Args    string // after the flags in the usage line: "CONTAINER"
	Summary string // one line, for the list of verbs
	Help    string // what `help NAME` prints below the usage line: what it does, flags, exit statuses
	// Examples are lines that name containers; in a virtual exec they would be wrong, and are left out.
	Examples string
	Host     bool // not offered in a virtual exec

	// New declares the verb's own flags and gives what runs once they are read. --json, --quiet and --help are
	// declared for every verb already.
	New func(fs *flag.FlagSet) func(ctx context.Context, in *Invocation) int
}

// Invocation is a verb with its arguments read. With --quiet its Env's Stdout and Stderr lead nowhere.
type Invocation struct {
	Env
	Command *Command
	JSON    bool
	Args    []string // the arguments that are not flags
}

// commands are the verbs that Run knows, in the order in which help lists them.
func commands(env Env) []Command {
	all := []Command{
		ps(), status(), restart(), recoverVerb(), apply(), rollback(), generations(), unlock(), lock(),
		probe(), logs(), receipts(), events(), auditVerb(), upgradeWarden(),
	}
	all = append(all, env.More...)
	if env.Target != nil {
		all = slices.DeleteFunc(all, func(c Command) bool { return c.Host })
	}
	return all
}

// Run carries out args (without the program's name) and returns the exit status (design, section 8). It never exits
// the process and starts none. When ctx ends Run stops waiting; what a warden has begun it finishes all the same.
func Run(ctx context.Context, env Env, args []string) int {
	if env.Namespace == "" {
		env.Namespace = "default"
	}
	if quiet(args) {
		env.Stdout, env.Stderr = io.Discard, io.Discard
	}
	if len(args) == 0 {
		fmt.Fprint(env.Stderr, overview(env))
		return code.ExitUsage
	}
	all := commands(env)
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		return help(env, all, args)
	}
	for _, c := range all {
		if c.Name == name {
			return c.run(ctx, env, args)
		}
	}
	in := Invocation{Env: env}
	if strings.HasPrefix(name, "-") {
		return in.Usage("the verb comes first, before flags such as %s", name)
	}
	if env.Target != nil && slices.ContainsFunc(commands(Env{}), func(c Command) bool { return c.Name == name }) {
		return in.Usage("%q is offered by the gatewarden command on the host, not inside a container", name)
	}
	return in.Usage("unknown verb %q", name)
}

// Commands gives what the gatewarden command on the host offers, with those verbs that only the command has, in the order of
// its help: for its documents and completions.
func Commands(more ...Command) []Command { return commands(Env{More: more}) }

// Overview and Help give what the command prints when it is asked for help, for its manual page.
func Overview(more ...Command) string { return overview(Env{More: more}) }

// Help gives one verb's.
func Help(c Command) string { return c.help(Env{}) }

// Flags gives the flags of the verb, those of every verb among them.
func (c *Command) Flags() *flag.FlagSet {
	fs, _ := c.flags(&Invocation{Command: c}, new(bool))
	return fs
}

// flags declares the verb's flags, and gives what runs once they are read.
func (c *Command) flags(in *Invocation, quiet *bool) (*flag.FlagSet, func(context.Context, *Invocation) int) {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.BoolVar(&in.JSON, "json", false, "")
	fs.BoolVar(quiet, "quiet", false, "")
	fs.BoolVar(quiet, "q", false, "")
	return fs, c.New(fs)
}

func (c *Command) run(ctx context.Context, env Env, args []string) int {
	in := &Invocation{Env: env, Command: c}
	var quiet bool
	fs, run := c.flags(in, &quiet)
	rest, err := parse(fs, args)
	if quiet {
		in.Stdout, in.Stderr = io.Discard, io.Discard
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(in.Stdout, c.help(env))
		return code.ExitOK
	case err != nil:
		return in.Usage("%s", flagError(err))
	}
	in.Args = rest
	return run(ctx, in)
}

// parse reads flags before, between and after the other arguments, up to "--".
func parse(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		read := len(args) - fs.NArg()
		if fs.NArg() == 0 {
			return rest, nil
		}
		if read > 0 && args[read-1] == "--" {
			return append(rest, fs.Args()...), nil
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// flagError says what package flag says, with the dashes that our help shows.
func flagError(err error) string {
	s := err.Error()
	if name, ok := strings.CutPrefix(s, "flag provided but not defined: -"); ok {
		return "unknown flag " + dashed(name)
	}
	if name, ok := strings.CutPrefix(s, "flag needs an argument: -"); ok {
		return dashed(name) + " needs a value"
	}
	if strings.HasPrefix(s, "invalid ") {
		// invalid value "x" for flag -timeout: WHY
		before, why, _ := strings.Cut(s, ": ")
		_, name, _ := strings.Cut(before, " -")
		_, value, _ := strings.Cut(before, "value ")
		value, _, _ = strings.Cut(value, " for ")
		return dashed(name) + ": " + value + ": " + why
	}
	return s
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// quiet tells whether --quiet is there, for what goes wrong before the flags are read, or while they are.
func quiet(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "-q", "-quiet", "--quiet", "-q=true", "--quiet=true":
			return true
		}
	}
	return false
}

// Usage says what is wrong with the arguments and returns the exit status for it.
func (in *Invocation) Usage(format string, args ...any) int {
	fmt.Fprintf(in.Stderr, "gatewarden: %s (usage)\n", fmt.Sprintf(format, args...))
	if in.Command == nil {
		fmt.Fprintln(in.Stderr, "gatewarden help lists the verbs.")
		return code.ExitUsage
	}
	fmt.Fprint(in.Stderr, in.Command.usage(in.Env))
	return code.ExitUsage
}

// timeoutFlag declares --timeout. 0 means that it was not given.
func timeoutFlag(fs *flag.FlagSet) *time.Duration {
	d := new(time.Duration)
	fs.Func("timeout", "", func(s string) error {
		v, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return errors.New("a duration is a number with its unit, such as 500ms, 10s or 2m")
		case v <= 0 || v > 24*time.Hour:
			return errors.New("a timeout lies between 0 and 24h")
		}
		*d = v
		return nil
	})
	return d
}
