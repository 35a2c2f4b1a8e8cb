package harness

import (
	"fmt"
	"strconv"
	"strings"
)

// Profile is a gateway's profile for tests: testgateway on 127.0.0.1:18789 with what a test changes. The strings are lines
// of TOML that take the place of, or are added to, those of a table.
type Profile struct {
	Args    []string // of testgateway, besides its --listen
	Command []string // instead of testgateway
	User    int      // 0: GatewayUID, for the group too
	Gateway string   // added to [gateway]
	Listen  string   // instead of the [[listen]] tables
	Ready   string   // instead of the lines of [ready]
	Stop    string   // lines of [stop]
	Restart string   // lines of [restart]
	Start   string   // lines of [start]
	Select  string   // instead of the lines of [select]
	More    string   // further tables
}

// GatewayUID is the UID and GID of the gateways of tests.
const GatewayUID = 64990

// GatewayAddress is where they listen.
const GatewayAddress = "127.0.0.1:18789"

// TOML gives the file.
func (p Profile) TOML() string {
	command := p.Command
	if command == nil {
		command = append([]string{"/usr/local/bin/testgateway", "--listen", GatewayAddress}, p.Args...)
	}
	quoted := make([]string, len(command))
	for i, a := range command {
		quoted[i] = strconv.Quote(a)
	}
	user := p.User
	if user == 0 {
		user = GatewayUID
	}
	listen := p.Listen
	if listen == "" {
		listen = "[[listen]]\nname = \"api\"\naddress = \"tcp://" + GatewayAddress + "\"\nmode = \"gateway\"\n"
	}
	ready := p.Ready
	if ready == "" {
		ready = "http = \"http://" + GatewayAddress + "/health\"\ntimeout = \"5s\""
	}
	sel := p.Select
	if sel == "" {
		sel = "annotation = true"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = 1\n\n[gateway]\ncommand = [%s]\nuser = %d\ngroup = %d\n%s\n\n%s\n", strings.Join(quoted, ", "), user, user, p.Gateway, listen)
	for _, table := range []struct{ name, lines string }{
		{"ready", ready}, {"stop", p.Stop}, {"restart", p.Restart}, {"start", p.Start}, {"select", sel},
	} {
		if table.lines != "" {
			fmt.Fprintf(&b, "[%s]\n%s\n\n", table.name, table.lines)
		}
	}
	b.WriteString(p.More)
	return b.String()
}
