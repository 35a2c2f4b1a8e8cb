package profile

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

// CredentialsVariable is the environment variable that names the directory of the credentials, as it is of systemd's
// (systemd.exec(5)).
const CredentialsVariable = "CREDENTIALS_DIRECTORY"

// Bounds of an environment.
const (
	maxEnv      = 256       // variables
	maxEnvBytes = 128 << 10 // all KEY=VALUE with their closing NULs
)

// ReadEnvFile reads env_file anew and gives its variables, KEY=VALUE, in the file's order; none without an env_file.
//
// The file must be root's, mode 0600, at most MaxSize bytes of UTF-8. A line is KEY=VALUE, a comment that begins with #,
// or blank. A value is everything from the first = to the end of the line, as it stands: quotes, #, $ and backslashes in
// it have no meaning. Refused are blanks before a key and at the end of a value, carriage returns and other control
// characters (a tab within a value is allowed), keys set twice and keys beginning with LISTEN_.
//
// The error is a *trusted.Error, a system's error, or *Problems, whose messages name lines and show nothing of them: in a
// file of secrets even what stands where a key belongs may be one.
func (p *Profile) ReadEnvFile() ([]string, error) {
	if p.Gateway.EnvFile == "" {
		return nil, nil
	}
	data, err := trusted.ReadSecret(p.Gateway.EnvFile, MaxSize)
	if err != nil {
		return nil, fmt.Errorf("gateway.env_file of profile %s: %w", p.Name, err)
	}
	defer clear(data)
	return parseEnv(p.Gateway.EnvFile, data)
}

func parseEnv(file string, data []byte) ([]string, error) {
	var env []string
	var problems []Problem
	lines := map[string]int{} // of each key
	for i, line := range bytes.Split(data, []byte("\n")) {
		if len(line) == 0 || line[0] == '#' || len(bytes.Trim(line, " \t")) == 0 {
			continue
		}
		key, _, _ := strings.Cut(string(line), "=")
		why := envLine(string(line))
		if first := lines[key]; why == "" && first > 0 {
			why = fmt.Sprintf("sets the same key as line %d; keep one of them", first)
		}
		if why != "" {
			problems = append(problems, Problem{Line: i + 1, Message: why})
			continue
		}
		lines[key] = i + 1
		env = append(env, string(line))
	}
	if len(env) > maxEnv {
		problems = append(problems, Problem{Message: fmt.Sprintf("sets %d variables; at most %d are allowed", len(env), maxEnv)})
	}
	if len(problems) > 0 {
		return nil, &Problems{File: file, List: problems}
	}
	return env, nil
}

// envLine says what is wrong with a line that should be KEY=VALUE, without showing any of it.
func envLine(line string) string {
	key, _, ok := strings.Cut(line, "=")
	switch {
	case !utf8.ValidString(line):
		return "is not UTF-8"
	case strings.HasSuffix(line, "\r"):
		return `ends in a carriage return, as files from Windows do; remove them with: sed -i 's/\r$//'`
	case strings.HasPrefix(key, "export "):
		return `begins with "export"; this is not a shell script, write KEY=VALUE`
	case !ok:
		return "has no =; write KEY=VALUE, or begin a comment with #"
	case line[0] == ' ' || line[0] == '\t':
		return "begins with a blank; remove it"
	case strings.HasSuffix(key, " ") || strings.HasSuffix(key, "\t"):
		return "has a blank before =; write KEY=VALUE without blanks"
	case envName(key) != "":
		return "is refused: the key " + envName(key)
	case strings.HasSuffix(line, " ") || strings.HasSuffix(line, "\t"):
		return "ends in a blank, which would be part of the value; remove it"
	case strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }):
		return "holds a control character; remove it"
	}
	return ""
}

// envName says what is wrong with the name of a variable, to follow "the name".
func envName(name string) string {
	const most = 255
	switch {
	case name == "":
		return "is empty"
	case len(name) > most:
		return fmt.Sprintf("is longer than %d bytes", most)
	case strings.HasPrefix(name, "LISTEN_"):
		return "begins with LISTEN_, which is kept for the listeners that are handed over"
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && !(i > 0 && r >= '0' && r <= '9') {
			return "may hold only letters, digits and _, and must not begin with a digit"
		}
	}
	return ""
}

// Environ gives the gateway's whole environment, KEY=VALUE sorted by key: env, and over it env_file, which is read anew.
// Nothing is inherited, neither from the image nor from the host. Errors are ReadEnvFile's.
func (p *Profile) Environ() ([]string, error) {
	fromFile, err := p.ReadEnvFile()
	if err != nil {
		return nil, err
	}
	merged := maps.Clone(p.Gateway.Env)
	if merged == nil {
		merged = map[string]string{}
	}
	for _, kv := range fromFile {
		key, value, _ := strings.Cut(kv, "=")
		if key == CredentialsVariable && len(p.Credentials) > 0 {
			return nil, fmt.Errorf("gateway.env_file of profile %s sets %s, which [credentials] sets; remove it from %s", p.Name, key, p.Gateway.EnvFile)
		}
		merged[key] = value
	}
	env := make([]string, 0, len(merged))
	size := 0
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		kv := key + "=" + merged[key]
		env = append(env, kv)
		size += len(kv) + 1
	}
	if len(env) > maxEnv || size > maxEnvBytes {
		return nil, fmt.Errorf("the environment of profile %s (env and env_file together) has %d variables of %d bytes; at most %d of %d are allowed",
			p.Name, len(env), size, maxEnv, maxEnvBytes)
	}
	return env, nil
}
