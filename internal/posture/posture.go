// Package posture judges whether a container's workload, as its specification describes it, could reach a gateway that
// runs beside it. It is pure: it reads a specification and a profile, and nothing else.
//
// What counts is what the workload can hold after its exec, not what the specification lists (capabilities(7),
// "Transformation of capabilities during execve"). The gateway runs in the workload's user namespace, so capabilities
// count as they are listed and UIDs and GIDs are compared as the container sees them. If that is not the host's, it keeps the
// workload from the host, not from the gateway: only the few capabilities that mean nothing there do not count. The image's
// /etc/passwd is never consulted: numbers are identity, names are what an image says.
package posture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	capabilities "github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Names of the findings that no profile can allow. The others are those of profile.Posture.
const (
	WorkloadUID = "workload-uid" // the workload's UID is the gateway's
	WorkloadGID = "workload-gid" // they share a group
)

// Finding is one way by which the workload could reach the gateway.
type Finding struct {
	ID         string // as in [posture] allow
	Message    string // what was found and what it means
	Cure       string // the flags and fields that cure it
	Capability string // "CAP_KILL", for findings about one
}

// Result is the judgement of one specification.
type Result struct {
	Refused []Finding
	Allowed []Finding // found too, but the profile allows them
	apart   bool
}

// Host gives who the gateway of p is on this host, beside a container whose user namespace has those maps. An ID that is not
// mapped is no process's there, and no file's: the error is posture_refused, and says which. So it is if the gateway would be
// the host's root.
func Host(p *profile.Profile, maps idmap.Maps) (idmap.ID, error) {
	id := idmap.ID{UID: p.Gateway.User, GID: p.Gateway.Group, Groups: p.Gateway.Groups}
	host, ok := maps.Host(id)
	if ok && (host.UID == 0 || host.GID == 0 || slices.Contains(host.Groups, 0)) {
		return idmap.ID{}, code.Errorf(code.PostureRefused, code.StageInstall,
			"the container's user namespace makes the gateway's UID %d, its GID %d or one of its groups %v the host's root (0): it has the UIDs %s and the GIDs %s. Cure: map it to IDs of the host that nobody else has",
			id.UID, id.GID, id.Groups, maps.UIDs, maps.GIDs)
	}
	if ok {
		return host, nil
	}
	var missing []string
	add := func(key, kind string, id, host uint32) {
		if host == idmap.None {
			missing = append(missing, fmt.Sprintf("%s (%s %d)", key, kind, id))
		}
	}
	add("user", "UID", id.UID, host.UID)
	add("group", "GID", id.GID, host.GID)
	for n, g := range id.Groups {
		add("groups", "GID", g, host.Groups[n])
	}
	return idmap.ID{}, code.Errorf(code.PostureRefused, code.StageInstall,
		"the container's user namespace does not have the profile's [gateway] %s: it has the UIDs %s and the GIDs %s. Cure: numbers in the profile that it has, "+
			"or a user namespace that has these: ctr run --uidmap 0:HOST:65536 --gidmap 0:HOST:65536; Kubernetes hostUsers: false has 0-65535",
		strings.Join(missing, ", "), maps.UIDs, maps.GIDs)
}

// Check judges spec for the gateway of p. Apart says that the container has a user namespace that is not the host's.
func Check(spec *specs.Spec, p *profile.Profile, apart bool) Result {
	process := spec.Process
	if process == nil {
		process = &specs.Process{}
	}
	var found []Finding
	found = append(found, identities(process.User, p)...)
	if f, ok := pidNamespace(spec.Linux); ok {
		found = append(found, f)
	}
	if !process.NoNewPrivileges {
		found = append(found, Finding{
			ID:      profile.AllowNewPrivileges,
			Message: "noNewPrivileges is off, so a setuid file or file capabilities of the image can give the workload any identity and any capability of its bounding set",
			Cure:    "ctr run without --allow-new-privs or --privileged; nerdctl or docker run --security-opt no-new-privileges; Kubernetes securityContext.allowPrivilegeEscalation: false",
		})
	}
	return judge(append(found, heldCapabilities(process, apart)...), p, apart)
}

// CheckProgram judges the capabilities that file, the program of the workload, has as a file: the bits of its
// security.capability attribute. Under no_new_privs they add nothing, but they keep what a workload that is not root has
// in its permitted set when it executes the program. The other cases are Check's.
func CheckProgram(spec *specs.Spec, p *profile.Profile, apart bool, file string, fileCapabilities uint64) Result {
	process := spec.Process
	if process == nil || process.User.UID == 0 || !process.NoNewPrivileges {
		return Result{}
	}
	var found []Finding
	for _, c := range profile.DangerousCapabilities(apart) {
		bit, ok := number(c)
		if !ok || fileCapabilities&(1<<bit) == 0 || process.Capabilities != nil && !slices.Contains(process.Capabilities.Permitted, c) {
			continue
		}
		found = append(found, capability(c, fmt.Sprintf("runs as UID %d, but its program %s has file capabilities that keep", process.User.UID, file)))
	}
	return judge(found, p, apart)
}

// number gives the kernel's number of a capability.
func number(name string) (n capabilities.Cap, ok bool) {
	for _, c := range capabilities.ListKnown() {
		if "CAP_"+strings.ToUpper(c.String()) == name {
			return c, true
		}
	}
	return 0, false
}

// OwnsRoot tells whether the workload has the UID that owns the image's directories and programs, or may come to have it. That is
// the container's root, and what our root is there, if it is anybody.
func OwnsRoot(spec *specs.Spec, maps idmap.Maps) bool {
	process := spec.Process
	return process == nil || process.User.UID == 0 || !process.NoNewPrivileges || maps.UIDs.HostOrNone(process.User.UID) == 0
}

func judge(found []Finding, p *profile.Profile, apart bool) Result {
	r := Result{apart: apart}
	for _, f := range found {
		if f.ID != WorkloadUID && f.ID != WorkloadGID && p.Posture.Allows(f.ID) {
			r.Allowed = append(r.Allowed, f)
		} else {
			r.Refused = append(r.Refused, f)
		}
	}
	return r
}

// Allows gives the names in the profile's [posture] allow that results needed, sorted; never nil.
func Allows(results ...Result) []string {
	names := []string{}
	for _, r := range results {
		for _, f := range r.Allowed {
			names = append(names, f.ID)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Err gives nil if nothing was refused, else a posture_refused error that lists every finding and every cure, one per line.
func (r Result) Err() error {
	if len(r.Refused) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("the workload could reach the gateway:")
	var dropped, allow []string
	for _, f := range r.Refused {
		fmt.Fprintf(&b, "\n  %s: %s", f.ID, f.Message)
		if f.Capability != "" {
			dropped = append(dropped, f.Capability)
		} else {
			fmt.Fprintf(&b, ". Cure: %s", f.Cure)
		}
		if f.ID != WorkloadUID && f.ID != WorkloadGID {
			allow = append(allow, strconv.Quote(f.ID))
		}
	}
	if r.apart {
		b.WriteString("\n  The container's user namespace is no protection here: it keeps the workload from the host, and the gateway lives in it too.")
	}
	if len(dropped) > 0 {
		fmt.Fprintf(&b, "\n  Cure for capabilities: %s", dropCure(dropped))
	}
	if len(allow) > 0 {
		fmt.Fprintf(&b, "\n  To accept it instead, write in the profile: [posture] allow = [%s]", strings.Join(slices.Compact(allow), ", "))
	}
	return code.Errorf(code.PostureRefused, code.StageInstall, "%s", b.String())
}

func identities(workload specs.User, p *profile.Profile) []Finding {
	const cure = "give the gateway numbers of its own in the profile ([gateway] user, group and groups), or the workload another user: ctr run --user UID:GID; nerdctl or docker run --user UID:GID and --group-add; Kubernetes securityContext.runAsUser, runAsGroup, supplementalGroups and fsGroup"
	var found []Finding
	if workload.UID == p.Gateway.User {
		found = append(found, Finding{
			ID:      WorkloadUID,
			Message: fmt.Sprintf("the workload runs as UID %d, which is the gateway's, so it can signal it and read its memory and files", workload.UID),
			Cure:    cure,
		})
	}
	groups := append([]uint32{workload.GID}, workload.AdditionalGids...)
	slices.Sort(groups)
	for _, gid := range slices.Compact(groups) {
		switch {
		case gid == p.Gateway.Group || slices.Contains(p.Gateway.Groups, gid):
			found = append(found, Finding{
				ID:      WorkloadGID,
				Message: fmt.Sprintf("the workload is in group %d, which is one of the gateway's, so it can use what the gateway shares with that group", gid),
				Cure:    cure,
			})
		case gid == p.Gateway.User:
			found = append(found, Finding{
				ID:      WorkloadGID,
				Message: fmt.Sprintf("the workload is in group %d, the number of the gateway's UID, which must be the gateway's alone", gid),
				Cure:    cure,
			})
		}
	}
	return found
}

func pidNamespace(linux *specs.Linux) (Finding, bool) {
	if linux != nil {
		for _, ns := range linux.Namespaces {
			if ns.Type != specs.PIDNamespace {
				continue
			}
			if ns.Path == "" {
				return Finding{}, false
			}
			return Finding{
				ID:      profile.AllowHostPID,
				Message: fmt.Sprintf("the container joins the PID namespace %s, so processes outside this container's posture see the gateway, and its end does not end the gateway", ns.Path),
				Cure:    "ctr run without --with-ns pid:…; nerdctl or docker run without --pid; Kubernetes shareProcessNamespace: false and hostPID: false",
			}, true
		}
	}
	return Finding{
		ID:      profile.AllowHostPID,
		Message: "the container has no PID namespace of its own, so the workload sees the gateway among the host's processes, and its end does not end the gateway",
		Cure:    "ctr run without --with-ns pid:…; nerdctl or docker run without --pid host; Kubernetes hostPID: false",
	}, true
}

func heldCapabilities(process *specs.Process, apart bool) []Finding {
	held := heldAfterExec(process)
	var found []Finding
	for _, c := range profile.DangerousCapabilities(apart) {
		how, ok := held(c)
		if !ok {
			continue
		}
		found = append(found, capability(c, how))
	}
	return found
}

func capability(name, how string) Finding {
	return Finding{
		ID:         profile.CapabilityException(name),
		Message:    fmt.Sprintf("the workload %s %s: %s", how, name, profile.CapabilityReason(name)),
		Cure:       dropCure([]string{name}),
		Capability: name,
	}
}

// heldAfterExec says whether, and how, the workload can hold a capability once it runs.
//
// A process of UID 0 gets inheritable | bounding at execve, whatever its permitted set was (no OCI runtime sets
// securebits). One of another UID keeps its ambient set, and beyond that only what setuid files and file capabilities
// give, which is bounded by the bounding set and does not happen under no_new_privs.
//
// Without a capabilities object runc leaves all sets as they are, which are root's: full.
func heldAfterExec(process *specs.Process) func(capability string) (how string, ok bool) {
	caps := process.Capabilities
	all := caps == nil
	if all {
		caps = &specs.LinuxCapabilities{}
	}
	bounded := func(c string) bool {
		return all || slices.Contains(caps.Bounding, c) || slices.Contains(caps.Inheritable, c)
	}
	return func(c string) (string, bool) {
		switch {
		case process.User.UID == 0 && bounded(c):
			return "runs as root and holds", true
		case slices.Contains(caps.Ambient, c):
			return fmt.Sprintf("runs as UID %d with the ambient capability", process.User.UID), true
		case !process.NoNewPrivileges && bounded(c):
			return "can gain, since noNewPrivileges is off,", true
		}
		return "", false
	}
}

func dropCure(names []string) string {
	var ctr, docker, kube []string
	for _, c := range names {
		short := strings.TrimPrefix(c, "CAP_")
		ctr = append(ctr, "--cap-drop "+c)
		docker = append(docker, "--cap-drop "+short)
		kube = append(kube, strconv.Quote(short))
	}
	return fmt.Sprintf("ctr run %s; nerdctl or docker run %s; Kubernetes securityContext.capabilities.drop: [%s]; or a workload that is not root (--user 1000, runAsUser: 1000)",
		strings.Join(ctr, " "), strings.Join(docker, " "), strings.Join(kube, ", "))
}
