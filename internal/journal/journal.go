package journal

import "github.com/gatewarden/gatewarden/internal/receipt"

// SkippedError: receipts returned beside it are good.
type SkippedError struct {
	Path  string
	Lines int
	Err   error
}

func (e *SkippedError) Error() string                    { panic("api") }
func (e *SkippedError) Unwrap() error                    { return e.Err }
func Append(path string, r *receipt.Receipt) error       { panic("api") }
func Read(path string, n int) ([]receipt.Receipt, error) { panic("api") }
