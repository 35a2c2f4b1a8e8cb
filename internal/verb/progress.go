package verb

import (
	"fmt"
	"io"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// progress prints the stages of an action: a line for each when it ends, or on a terminal one line that is rewritten
// and gone at the end.
type progress struct {
	w        io.Writer
	terminal bool
	width    int
	safe     func(string) string

	current code.Stage // begun and not ended; empty: none
	text    string
	begun   float64 // milliseconds since the action was asked for, by the warden's clock: messages arrive in bunches
	stopped bool    // the old gateway has been signalled: the stop stage or a later one began
}

// note keeps what m says without printing.
func (p *progress) note(m control.Message) {
	p.stopped = p.stopped || gateways.Stopped(m)
}

// stage takes a message that says that a stage begins. One without a stage only changes the text.
func (p *progress) stage(m control.Message) {
	p.note(m)
	if m.Stage == "" && m.Text == "" {
		return
	}
	if m.Stage != "" && m.Stage != p.current {
		p.line("ok", m.Elapsed)
		p.current, p.begun = m.Stage, m.Elapsed
	}
	p.text = p.safe(m.Text)
	if p.terminal {
		p.rewrite(fmt.Sprintf("  %-9s  %s", p.current, p.text))
	}
}

// end closes the last stage, elapsed milliseconds after the action was asked for; 0 if nobody knows.
func (p *progress) end(ok bool, elapsed float64) {
	how := "failed"
	if ok {
		how = "ok"
	}
	p.line(how, elapsed)
	if p.terminal && p.current != "" {
		io.WriteString(p.w, "\r\x1b[K")
	}
	p.current = ""
}

// line prints the stage that ended, where lines are printed.
func (p *progress) line(how string, elapsed float64) {
	if p.current == "" || p.terminal {
		return
	}
	fmt.Fprintf(p.w, "  %-9s  %-6s", p.safe(string(p.current)), how)
	if elapsed >= p.begun && elapsed > 0 {
		fmt.Fprintf(p.w, "  %9s", millis(elapsed-p.begun))
	}
	if p.text != "" {
		fmt.Fprintf(p.w, "  %s", p.text)
	}
	fmt.Fprintln(p.w)
}

// rewrite replaces the terminal's line. The line is cut short of the edge, since "\r" does not go back over a wrap.
func (p *progress) rewrite(s string) {
	if p.width > 0 {
		s = cut(s, p.width-1)
	}
	io.WriteString(p.w, "\r"+s+"\x1b[K")
}
