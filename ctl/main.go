// Command gatewarden is the operator's command: it asks the wardens of this host's containers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/verb"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// SIGPIPE keeps its default, so that `gatewarden logs | head` ends without a word.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()

	path, args, err := takeConfig(args, os.Getenv("GATEWARDEN_CONFIG"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "gatewarden: %v (usage)\n", err)
		return code.ExitUsage
	}
	if len(args) > 0 && (args[0] == "--version" || args[0] == "-version") {
		args[0] = "version"
	}
	cfg, err := config.Load(path)
	if err != nil && needsConfig(args) {
		fmt.Fprintf(os.Stderr, "gatewarden: %v\n", err)
		return code.ExitRefused
	}
	width, terminal := terminal(os.Stdout)
	return verb.Run(ctx, verb.Env{
		Config: cfg,
		// The containerd clients read the same variable for the same purpose.
		Namespace: os.Getenv("CONTAINERD_NAMESPACE"),
		Stdin:     os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: terminal, Width: width,
		Via: "cli", UID: os.Getuid(),
		More: more(path, err),
	}, args)
}

// more are the verbs that only this command has. configErr is why the settings at path could not be read, if they could not.
func more(path string, configErr error) []verb.Command {
	return []verb.Command{
		metricsCommand(), profileCommand(), runtimeCommand(path), cdiCommand(path), doctorCommand(path, configErr), versionCommand(),
	}
}

// needsConfig tells whether a broken config file stands in the way of args. doctor reports it as a finding.
func needsConfig(args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch args[0] {
	case "doctor", "version", "profile", "help", "-h", "-help", "--help":
		return false
	}
	return true
}

// takeConfig takes --config FILE out of args, wherever it stands before "--"; but what follows apply is that verb's own --config.
// path is what it was, or else env.
func takeConfig(args []string, env string) (path string, rest []string, err error) {
	path = env
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--", len(rest) == 1 && rest[0] == "apply":
			return path, append(rest, args[i:]...), nil
		case name != "--config" && name != "-config":
			rest = append(rest, args[i])
			continue
		case !has && i+1 == len(args):
			return "", nil, fmt.Errorf("--config needs a file's name")
		case !has:
			i++
			value = args[i]
		}
		if value == "" {
			return "", nil, fmt.Errorf("--config needs a file's name")
		}
		path = value
	}
	return path, rest, nil
}

// terminal tells whether f is one, and its width in columns, 0 if it does not say.
func terminal(f *os.File) (width int, is bool) {
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, true
	}
	return int(size.Col), true
}
