package manual

import (
	"fmt"
	"strings"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// Profile is the format of a profile. The tests hold it against the parser: that there are these keys and no others, that
// the defaults are what is taken without the key, and that the bounds are the parser's.
var Profile = []Table{
	{Keys: []Key{
		{Name: "version", Type: "integer", Required: true, Low: "1", High: "1", Meaning: "of this format"},
		{Name: "description", Type: "string", Default: `""`, Meaning: "text for people, at most 4096 bytes"},
	}},
	{Name: "gateway", Keys: []Key{
		{Name: "command", Type: "list", Required: true, Meaning: "program and arguments, 1 to 256 of at most 32 KiB each. The first is an absolute path *in the container*; `PATH` is never searched. It must not lie in a `[[state]]`"},
		{Name: "user", Type: "integer", Required: true, Low: "1", High: "4294967294", Meaning: "numeric UID. Never 0. Must not be the workload's UID"},
		{Name: "group", Type: "integer", Required: true, Low: "1", High: "4294967294", Meaning: "numeric GID. Never 0. Must not be one of the workload's groups"},
		{Name: "groups", Type: "list", Default: "[]", Meaning: "exact supplementary groups, at most 64, each once, never 0"},
		{Name: "cwd", Type: "path", Default: `"/"`, Meaning: "working directory in the container"},
		{Name: "env", Type: "table", Default: "{}", Meaning: "the environment. Nothing of the image's or the host's is inherited. Names: letters, digits, `_`, not beginning with a digit or `LISTEN_`. `env` and `env_file` together: at most 256 variables and 128 KiB"},
		{Name: "env_file", Type: "path", Meaning: "file on the host, root's, mode 0600, at most 64 KiB; its variables win over `env`. One `KEY=VALUE` per line, taken literally (quotes, `$` and backslashes mean nothing); `#` begins a comment line. Error messages name lines and never show their text. It must not lie in the `source` of a `[[mount]]`. The gateway leaves no [core file](#credentials-secrets-as-files). For programs that insist on an environment: it stays readable in `/proc/PID/environ` for the gateway's UID, and children inherit it"},
		{Name: "capabilities", Type: "list", Default: "[]", Meaning: "only `\"CAP_NET_BIND_SERVICE\"` can be granted. `CAP_DAC_OVERRIDE` never"},
		{Name: "sha256", Type: "string", Default: `""`, Meaning: "64 lower-case hexadecimal digits: the binary must have this content at every start. Of a script, the script is hashed, not its interpreter"},
	}},
	{Name: "listen", Keys: []Key{
		{Name: "name", Type: "string", Required: true, Meaning: "1 to 63 of `a-z 0-9 _ . -`, each once"},
		{Name: "address", Type: "string", Required: true, Meaning: "`tcp://127.0.0.1:8080`, `tcp6://[::1]:8080`, `unix:///run/x.sock` (at most 107 bytes; not in a `[[mount]]`), `unix://@name` (an abstract socket; at most 107 bytes with its `@`). Address literals only, no names, no port 0; `0.0.0.0` and `[::]` mean every address. Two entries must not overlap"},
		{Name: "mode", Type: "string", Default: `"gateway"`, Meaning: "`\"gateway\"`: the gateway binds the address itself. `\"inherit\"`: the warden makes the socket and hands it over as `LISTEN_FDS`. `\"transparent\"`: the gateway binds the address as ever, and gets the warden's socket in the place of its own; not for the path of a unix socket, which programs remove or rename before they bind"},
		{Name: "backlog", Type: "integer", Default: "4096", Low: "1", High: "65535", Meaning: "held listeners only: how many connections wait until they are accepted. The kernel takes at most `net.core.somaxconn` of the container's network namespace"},
		{Name: "outage", Type: "string", Default: `"queue"`, Meaning: "held listeners only: what clients get while no gateway runs and none is coming back (state `failed` or `stopped`). `\"queue\"`: they connect and wait, as during a restart. `\"reset\"`: they are disconnected"},
		{Name: "non_blocking", Type: "boolean", Default: "false", Meaning: "`\"inherit\"` only: the socket has O_NONBLOCK, as with systemd's `NonBlocking=`. For a program that waits by epoll or poll and does not set it itself, such as nginx; see below"},
		{Name: "options", Type: "table", Default: "{}", Meaning: "held listeners only: options of the socket, below"},
		{Name: "socket_mode", Type: "string", Default: `"0666"`, Meaning: "held paths of unix sockets only: the permission bits of the socket's file, three or four octal digits in quotes. Connecting takes write permission"},
	}},
	{Name: "listen.options", Keys: []Key{
		{Name: "keep_alive", Type: "boolean", Default: "false", Meaning: "`SO_KEEPALIVE`"},
		{Name: "no_delay", Type: "boolean", Default: "false", Meaning: "`TCP_NODELAY`"},
		{Name: "defer_accept", Type: "duration", Default: `"0s"`, Low: `"0s"`, High: `"1h"`, Meaning: "`TCP_DEFER_ACCEPT`: a connection is handed over when its first data come. Whole seconds. Not with a probe of `[ready] tcp` on this listener, which sends none"},
		{Name: "receive_buffer", Type: "integer", Default: "0", Low: "0", High: "1073741824", Meaning: "`SO_RCVBUF` in bytes; `0` is the kernel's default, which adapts itself. The kernel takes at most `net.core.rmem_max`, and doubles it for its own use"},
		{Name: "send_buffer", Type: "integer", Default: "0", Low: "0", High: "1073741824", Meaning: "`SO_SNDBUF` likewise; at most `net.core.wmem_max`"},
		{Name: "v6only", Type: "boolean", Default: "false", Meaning: "`IPV6_V6ONLY`, `tcp6://` only. A held `tcp6://[::]:PORT` without it takes the port of IPv4 too; together with a `tcp://` listener of that port it is needed"},
	}},
	{Name: "ready", Keys: []Key{
		{Name: "http", Type: "string", Meaning: "`http://127.0.0.1:8080/health`: plain HTTP to an address literal; asked from inside the container's network namespace"},
		{Name: "accept", Type: "list", Default: "[200]", Meaning: "HTTP statuses that mean yes, 100 to 599, at most 64; with `http` only. Redirects are not followed"},
		{Name: "grpc", Type: "string", Meaning: "an address as in `[[listen]]`, `tcp://127.0.0.1:50051` or `unix:///run/x.sock`: ready when [gRPC's health service](https://github.com/grpc/grpc/blob/master/doc/health-checking.md) there says `SERVING`; without TLS"},
		{Name: "service", Type: "string", Default: `""`, Meaning: "whose health is asked, at most 256 bytes; with `grpc` only. `\"\"` is the server as a whole"},
		{Name: "tcp", Type: "string", Meaning: "an address of TCP: ready when it accepts a connection"},
		{Name: "unix", Type: "string", Meaning: "an address of a unix socket: ready when it accepts a connection"},
		{Name: "exec", Type: "list", Meaning: "a command of the container and its arguments, bounds as for `gateway.command`: ready when it exits with status 0"},
		{Name: "none", Type: "boolean", Default: "false", Meaning: "`true`: ready as soon as its listeners are proven"},
		{Name: "timeout", Type: "duration", Default: `"30s"`, Low: `"1ms"`, High: `"1h"`, Meaning: "from the start to proven ready"},
		{Name: "settle", Type: "duration", Default: `"0s"`, Low: `"0s"`, High: `"1h"`, Meaning: "it is probed once more this long after it was first ready"},
	}},
	{Name: "preflight", Keys: []Key{
		{Name: "command", Type: "list", Required: true, Meaning: "the program and its arguments, as for `[gateway]`: absolute, never searched in `PATH`, not in a `[[state]]`. Exit status 0 is yes; anything else is no (`preflight_failed`), with the last lines of what it wrote"},
		{Name: "timeout", Type: "duration", Default: `"10s"`, Low: `"1ms"`, High: `"1h"`, Meaning: "then it is killed, which is a no"},
	}},
	{Name: "stop", Keys: []Key{
		{Name: "signal", Type: "string", Default: `"SIGTERM"`, Meaning: "`SIGTERM`, `SIGINT`, `SIGQUIT`, `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGWINCH`, `SIGABRT` or `SIGKILL`"},
		{Name: "timeout", Type: "duration", Default: `"5s"`, Low: `"1ms"`, High: `"1h"`, Meaning: "then SIGKILL through the same pidfd, and at most 5 s for that"},
	}},
	{Name: "restart", Keys: []Key{
		{Name: "policy", Type: "string", Default: `"always"`, Meaning: "`always`; `on-failure`: not after exit status 0, which leads to the state `stopped`; `never`: `stopped` after status 0, else `failed`"},
		{Name: "backoff", Type: "table", Default: "{}", Meaning: "the wait before the next start, below"},
		{Name: "burst", Type: "integer", Default: "5", Low: "1", High: "1000", Meaning: "more than this many ends (exits and failed starts) within `window`: state `failed`, code `crash_loop`, until `restart` or `recover`"},
		{Name: "window", Type: "duration", Default: `"60s"`, Low: `"1ms"`, High: `"1h"`, Meaning: "in which ends are counted"},
		{Name: "fatal_exit_codes", Type: "list", Default: "[78]", Meaning: "0 to 255, at most 64. Such an exit leads to `failed` at once"},
		{Name: "overlap", Type: "boolean", Default: "false", Meaning: "`true`: the successor is started and proven while the old gateway still serves, which only then is told to end. Every listener must be held, and `[ready]` must be `http`, `grpc`, `tcp` or `unix` on one of them: the successor is proven by a connection that it accepts on the shared socket"},
	}},
	{Name: "restart.backoff", Keys: []Key{
		{Name: "initial", Type: "duration", Default: `"100ms"`, Low: `"1ms"`, High: `"1h"`, Meaning: "the first wait; it is doubled each time, up to a tenth more at random. A gateway that ran for `window` begins anew. Not longer than `max`"},
		{Name: "max", Type: "duration", Default: `"30s"`, Low: `"1ms"`, High: `"1h"`, Meaning: "the longest wait"},
	}},
	{Name: "mount", Keys: []Key{
		{Name: "source", Type: "path", Required: true, Meaning: "a directory or regular file on the host that is root's alone in every component"},
		{Name: "target", Type: "path", Required: true, Meaning: "a path in the container, not `/`, not in `/proc`, `/sys` or `/dev`, not overlapping another `[[mount]]` or `[[state]]`"},
	}},
	{Name: "state", Keys: []Key{
		{Name: "target", Type: "path", Required: true, Meaning: "as that of `[[mount]]`"},
	}},
	{Name: "unlock", Keys: []Key{
		{Name: "paths", Type: "list", Required: true, Meaning: "targets of `[[mount]]` entries, or files and directories below them, which have to be there. Without the table nothing can be unlocked"},
		{Name: "max", Type: "duration", Default: `"1h"`, Low: `"1s"`, High: `"24h"`, Meaning: "the longest time at once"},
	}},
	{Name: "start", Keys: []Key{
		{Name: "when", Type: "string", Default: `"before-workload"`, Meaning: "`before-workload`: the container's start waits until the gateway is ready. `with-workload`: it does not wait"},
		{Name: "on_failure", Type: "string", Default: `"fail"`, Meaning: "with `before-workload`: `fail`: the start of the container fails with the gateway's error. `warn`: it starts all the same, the shim logs a warning, and the restart policy goes on"},
	}},
	{Name: "forward", Keys: []Key{
		{Name: "address", Type: "string", Required: true, Meaning: "where clients on the host connect: `\"127.0.0.1:8080\"`, `\"[::1]:8080\"`; loopback or an address of this host. Literals only, no names, no port 0, not `0.0.0.0` or `[::]`; each once. To an address that is not this host's no connection is made"},
		{Name: "name", Type: "string", Absent: "the address", Meaning: "1 to 63 of `a-z 0-9 _ . -`, each once"},
		{Name: "http", Type: "string", Meaning: "a path and query, `\"/health\"`: a GET of it has to be answered. Without it, a connection that is accepted is enough"},
		{Name: "accept", Type: "list", Default: "[200]", Meaning: "HTTP statuses that mean yes, 100 to 599, at most 64; with `http` only. Redirects are not followed"},
	}},
	{Name: "select", Keys: []Key{
		{Name: "annotation", Type: "boolean", Default: "false", Meaning: "`true`: an annotation may name the profile. Otherwise only the hook's own `--profile` does"},
		{Name: "namespaces", Type: "list", Absent: "any", Meaning: "containerd namespaces from which an annotation may, 1 to 64; all of Kubernetes is in `k8s.io`"},
		{Name: "pod_namespaces", Type: "list", Absent: "any, and outside pods", Meaning: "Kubernetes namespaces from whose pods an annotation may, 1 to 64. With it, containers outside pods may not. Both lists have to allow it"},
	}},
	{Name: "posture", Keys: []Key{
		{Name: "allow", Type: "list", Default: "[]", Meaning: "findings of the posture check that are accepted, below"},
	}},
}

// exceptions gives the names of [posture] allow as a table.
func exceptions() string {
	var b strings.Builder
	b.WriteString("| name in `allow` | what it accepts |\n|---|---|\n")
	row := func(name, reason string) { fmt.Fprintf(&b, "| `%s` | %s |\n", name, reason) }
	row(profile.AllowNewPrivileges, "`noNewPrivileges` is off: setuid files and file capabilities of the image work")
	row(profile.AllowHostPID, "the container has no PID namespace of its own, or joins another one")
	for _, c := range profile.DangerousCapabilities(false) {
		row(profile.CapabilityException(c), profile.CapabilityReason(c))
	}
	return b.String()
}

// ProfileTexts are what the regions of the profile's document hold.
func ProfileTexts() map[string]string {
	texts := map[string]string{"names of posture.allow": exceptions()}
	for _, t := range Profile {
		texts[t.region()] = t.Markdown()
	}
	return texts
}

// region is the name of the region for the table.
func (t Table) region() string {
	if t.Name == "" {
		return "keys of the top level"
	}
	return "keys of " + t.Name
}
