package gatewaylog

import "time"
import "os"
import "context"

type Limits struct {
	MaxBytes int64
	MaxFiles int
}
type Writer struct{}

func Open(path string, limits Limits) (*Writer, error) { panic("api") }
func (w *Writer) Close() error                         { panic("api") }

type Pump struct{}

func Start(r *os.File, stream string, w *Writer) (*Pump, error) { panic("api") }
func (p *Pump) Flush(timeout time.Duration) error               { panic("api") }
func (p *Pump) Close() error                                    { panic("api") }

type Line struct {
	Time    time.Time
	Stream  string
	Partial bool
	Text    string
}

func Tail(path string, n int) ([]Line, error)                                   { panic("api") }
func Follow(ctx context.Context, path string, n int, fn func(Line) error) error { panic("api") }
func Sanitize(text string) string                                               { panic("api") }
func Excerpt(path string, since time.Time, n int) string                        { panic("api") }
