package oci

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cdi "tags.cncf.io/container-device-interface/specs-go"
)

// Names that engines know gatewarden's documents by.
const (
	// CDIKind is the vendor and class of gatewarden's CDI devices. A device's name is its profile's:
	// gatewarden.io/gateway=NAME.
	CDIKind = "gatewarden.io/gateway"
	// CDIName is the name of the specification's file in a CDI directory: vendor and class, as the CDI library makes it.
	CDIName = "gatewarden.io-gateway.json"
	// cdiVersion is the first one in which a device's name may begin with a digit. Podman 4.3 reads it.
	cdiVersion = "0.5.0"
	// hooksVersion is the only version of hooks.d documents (oci-hooks(5)).
	hooksVersion = "1.0.0"
)

// Bounds of what documents are made from.
const (
	MaxProfiles = 1024 // devices in a CDI specification
	maxHookArgs = 16
	maxHookWord = 4095 // bytes: PATH_MAX without the closing NUL
)

// HooksDocument is a file of a hooks.d directory, by which podman and CRI-O run a hook for the containers that it matches:
// oci-hooks(5), version 1.0.0.
type HooksDocument struct {
	Version string     `json:"version"`
	Hook    specs.Hook `json:"hook"`
	When    HooksWhen  `json:"when"`
	Stages  []Stage    `json:"stages"`
}

// HooksWhen is what a container has to have for its hook to run.
type HooksWhen struct {
	// Annotations are regular expressions of an annotation's key, and of its value.
	Annotations map[string]string `json:"annotations"`
}

// HooksDocuments gives the hooks.d documents that run the hook program at hookPath for every container with
// GatewayAnnotation, or with that and a slash, by which a pod's annotation names a container; by the names of their files. There is one for each stage: a document gives its hook the same
// arguments in all its stages, and ours are told the stage as the first one. args follow it, as with AddHooks.
//
// Only the hook judges what the annotation says. A container whose annotation names no profile is to be refused, not
// started without its gateway, so the documents match any.
func HooksDocuments(hookPath string, args []string) (map[string]HooksDocument, error) {
	if err := checkHook(hookPath, args); err != nil {
		return nil, fmt.Errorf("cannot make hooks.d documents: %w", err)
	}
	documents := map[string]HooksDocument{}
	for _, stage := range []Stage{CreateRuntime, Poststop} {
		// By hand, since package regexp is slow to start for a program that only needs this: dots are all that is special in it.
		key := "^" + strings.ReplaceAll(GatewayAnnotation, ".", `\.`) + "(/.*)?$"
		documents[HooksName(stage)] = HooksDocument{
			Version: hooksVersion,
			Hook:    hook(hookPath, stage, args),
			When:    HooksWhen{Annotations: map[string]string{key: ".*"}},
			Stages:  []Stage{stage},
		}
	}
	return documents, nil
}

// HooksName is the name of a stage's file in a hooks.d directory. Engines run hooks in the order of these names.
func HooksName(stage Stage) string {
	return "90-gatewarden-" + strings.ToLower(string(stage)) + ".json"
}

// CDISpec gives the CDI specification with one device for each of profiles, which the hook program at hookPath installs.
// Every user of an engine who may ask for a device gets the gateway, whatever the profile's [select] says: the profile is
// named by the specification's author, not by an annotation. args follow the stage in the hook's command line, as with
// AddHooks, and --profile follows them.
//
// A profile whose name ends with other than a letter or digit cannot be a device (CDI, "Device names"), and makes an
// error, as does an empty list: a specification without devices is not one.
func CDISpec(hookPath string, args, profiles []string) (*cdi.Spec, error) {
	spec, err := cdiSpec(hookPath, args, profiles)
	if err != nil {
		return nil, fmt.Errorf("cannot make a CDI specification: %w", err)
	}
	return spec, nil
}

func cdiSpec(hookPath string, args, profiles []string) (*cdi.Spec, error) {
	if err := checkHook(hookPath, args); err != nil {
		return nil, err
	}
	switch {
	case len(profiles) == 0:
		return nil, errors.New("there is no profile to make a device of")
	case len(profiles) > MaxProfiles:
		return nil, fmt.Errorf("%d profiles are too many; at most %d can be devices", len(profiles), MaxProfiles)
	}
	spec := &cdi.Spec{Version: cdiVersion, Kind: CDIKind}
	names := slices.Clone(profiles)
	slices.Sort(names)
	for i, name := range names {
		switch {
		case !ValidDeviceName(name):
			return nil, fmt.Errorf("%.80q cannot be a device: its name has to be a profile's that ends with a letter or digit", name)
		case i > 0 && names[i-1] == name:
			return nil, fmt.Errorf("profile %s is there twice", name)
		}
		device := cdi.Device{Name: name}
		for _, stage := range []Stage{CreateRuntime, Poststop} {
			h := hook(hookPath, stage, slices.Concat(args, []string{"--profile", name}))
			device.ContainerEdits.Hooks = append(device.ContainerEdits.Hooks, &cdi.Hook{
				HookName: string(stage), Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout,
			})
		}
		spec.Devices = append(spec.Devices, device)
	}
	return spec, nil
}

// ValidDeviceName tells whether the profile of that name can be a CDI device: a profile's name may end with "_", "." or
// "-", a device's may not.
func ValidDeviceName(profile string) bool {
	return ValidProfileName(profile) && !strings.ContainsRune("_.-", rune(profile[len(profile)-1]))
}

// checkHook sees to it that a document is one that every engine reads, and that it does what its maker says.
func checkHook(hookPath string, args []string) error {
	switch {
	case !filepath.IsAbs(hookPath) || filepath.Clean(hookPath) != hookPath || hookPath == "/":
		return fmt.Errorf("the hook's path %.200q is not absolute and in its shortest form", hookPath)
	case len(args) > maxHookArgs:
		return fmt.Errorf("%d arguments of the hook are too many; at most %d are allowed", len(args), maxHookArgs)
	}
	for _, word := range append([]string{hookPath}, args...) {
		if word == "" || len(word) > maxHookWord || strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
			return fmt.Errorf("%.200q is no path or argument for a hook: it has to be 1 to %d bytes of UTF-8 without control characters", word, maxHookWord)
		}
	}
	for _, word := range args {
		if name, _, _ := strings.Cut(word, "="); name == "--profile" || name == "-profile" {
			return fmt.Errorf("the hook's arguments have %.80q; which profile it is, the annotation or the device says", word)
		}
	}
	return nil
}
