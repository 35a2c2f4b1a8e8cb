package verb

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
)

// commonFlags and exitHelp are parts of several verbs' help.
const commonFlags = `  --json             print the result, or {"error": …}, as one JSON object on one line
  -q, --quiet        no output, same exit status
`

const exitHelp = `
Exit status:
  0  done, or nothing to do
  1  failed after the old gateway was stopped; the message says what runs now
  2  usage
  3  refused; the old gateway was not touched
  4  rolled back to the previous configuration
  5  deadline passed or busy; safe to repeat
  6  no such container, or not managed
`

// help prints the overview, or one verb's help.
func help(env Env, all []Command, args []string) int {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	if len(args) == 0 {
		io.WriteString(env.Stdout, overview(env))
		return code.ExitOK
	}
	for _, c := range all {
		if c.Name == args[0] {
			io.WriteString(env.Stdout, c.help(env))
			return code.ExitOK
		}
	}
	in := Invocation{Env: env}
	return in.Usage("no help on %q: there is no such verb", args[0])
}

func overview(env Env) string {
	var b strings.Builder
	all := commands(env)
	width := len("help")
	for _, c := range all {
		width = max(width, len(c.Name))
	}
	if env.Target != nil {
		b.WriteString("usage: gatewarden VERB [flags]\n\nActs on the gateway of this container; nothing of it runs inside.\n\n")
	} else {
		b.WriteString("usage: gatewarden [--config FILE] VERB [flags] [CONTAINER]\n\nSupervised gateways beside untrusted workloads.\n\n")
	}
	for _, c := range all {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, c.Name, c.Summary)
	}
	fmt.Fprintf(&b, "  %-*s  %s\n", width, "help", "this list, or with a VERB what it does, its flags and examples")
	if env.Target == nil {
		b.WriteString("\nA CONTAINER is an ID, NAMESPACE/ID, or a prefix that only one container has.\n")
	}
	b.WriteString("\nFlags of every verb, before or after other arguments:\n" + commonFlags)
	b.WriteString(exitHelp)
	return b.String()
}

func (c *Command) help(env Env) string {
	s := c.usage(env) + "\n" + c.Help
	if c.Examples != "" && env.Target == nil {
		s += "\nExamples:\n" + c.Examples
	}
	return s
}

// usage is the verb's usage line.
func (c *Command) usage(env Env) string {
	s := "usage: gatewarden " + c.Name + " [flags]"
	if c.Args != "" && env.Target == nil {
		s += " " + c.Args
	}
	return s + "\n"
}
