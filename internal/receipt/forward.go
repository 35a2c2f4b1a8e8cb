package receipt

import (
	"fmt"

	"github.com/gatewarden/gatewarden/internal/code"
)

// Forward is one host-side endpoint that should reach the gateway, as it was last looked at from the host.
type Forward struct {
	Name    string    `json:"name"`
	Address string    `json:"address"`
	OK      *bool     `json:"ok"`             // null: that could not be told
	Code    code.Code `json:"code,omitempty"` // "forward_failed" if it is not ok
	Millis  float64   `json:"millis"`         // until the answer, or until it was given up
	Detail  string    `json:"detail"`         // what was found, where that is not a plain yes
}

// Failed tells whether it is known that the endpoint does not reach the gateway.
func (f Forward) Failed() bool { return f.OK != nil && !*f.OK }

// String says what was found.
func (f Forward) String() string {
	name := f.Address
	if f.Name != f.Address {
		name = f.Name + " (" + f.Address + ")"
	}
	switch {
	case f.OK == nil:
		return fmt.Sprintf("cannot tell whether forward %s reaches the gateway: %s", name, f.Detail)
	case *f.OK:
		return fmt.Sprintf("forward %s answers", name)
	}
	return fmt.Sprintf("forward %s does not reach the gateway: %s", name, f.Detail)
}

// FailedForwards gives those of all that do not reach the gateway.
func FailedForwards(all []Forward) []Forward {
	var failed []Forward
	for _, f := range all {
		if f.Failed() {
			failed = append(failed, f)
		}
	}
	return failed
}
