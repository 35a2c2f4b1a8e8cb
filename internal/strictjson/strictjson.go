// Package strictjson decodes JSON that gatewarden itself wrote: anything unknown or left over means that it is not what
// it seems. It is not for what others write (OCI state, specifications), where unknown members are to be expected.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// ErrTrailing says that something follows the one value.
var ErrTrailing = errors.New("something follows the JSON value")

// Decode decodes exactly one value, without unknown members.
func Decode[T any](data []byte) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, ErrTrailing
	}
	return v, nil
}
