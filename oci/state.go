package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// Stage is one of the hook stages that gatewarden uses.
type Stage string

// The stages, in the words of the specification's hooks object. Both run in the runtime's namespaces, on the host.
const (
	CreateRuntime Stage = "createRuntime"
	Poststop      Stage = "poststop"
)

// State is what an OCI runtime writes to a hook's standard input.
//
// Runtimes differ: runc says status "creating" during createRuntime, crun says "created", claims ociVersion "1.0" and
// adds "root". Status and Version are therefore for messages, not for decisions.
type State struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	PID         int               `json:"pid"` // of the container's init, on the host; 0: the runtime gave none
	Bundle      string            `json:"bundle"`
	Root        string            `json:"root"` // crun only: the root filesystem
	Annotations map[string]string `json:"annotations"`
}

// ReadState reads the state for a hook of the given stage. It ignores fields that it does not know. The id must be a
// single path component and the bundle an absolute path; createRuntime also needs the init's pid. More than MaxState
// bytes, or anything after the JSON object, is an error.
func ReadState(r io.Reader, stage Stage) (State, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxState+1))
	if err != nil {
		return State{}, fmt.Errorf("cannot read the container's state from standard input: %w", err)
	}
	if len(data) > MaxState {
		return State{}, fmt.Errorf("the container's state on standard input is longer than %d bytes", MaxState)
	}
	s, err := parseState(data, stage)
	if err != nil {
		return State{}, fmt.Errorf("cannot use the container's state on standard input: %w", err)
	}
	return s, nil
}

func parseState(data []byte, stage Stage) (State, error) {
	if len(data) == 0 {
		return State{}, errors.New("it is empty; an OCI runtime writes it when it runs this hook")
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, err
	}
	if !ValidID(s.ID) {
		return State{}, fmt.Errorf("id %.80q is not a container's name", s.ID)
	}
	switch {
	case s.Bundle == "":
		return State{}, errors.New("it has no bundle")
	case !filepath.IsAbs(s.Bundle) || strings.ContainsRune(s.Bundle, 0):
		return State{}, fmt.Errorf("bundle %.200q is not an absolute path", s.Bundle)
	case s.PID < 0, stage == CreateRuntime && s.PID == 0:
		return State{}, fmt.Errorf("pid %d is not a process; %s needs the container's init", s.PID, stage)
	}
	s.Bundle = filepath.Clean(s.Bundle)
	return s, nil
}

// ValidID tells whether s, a container's id or a containerd namespace, can be one component of a path and be printed as
// it is. Runtimes are stricter with ids (runc: letters, digits and "_+-."), but each with rules of its own.
func ValidID(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 255 {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '\\' {
			return false
		}
	}
	return true
}
