package posture

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// containerdDefaults are the capabilities of `ctr run` (containerd 2.4, pkg/oci.defaultUnixCaps).
var containerdDefaults = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// ctrRun is the specification of `ctr run --user UID`.
func ctrRun(uid uint32) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{
			User:            specs.User{UID: uid, GID: uid},
			NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  slices.Clone(containerdDefaults),
				Permitted: slices.Clone(containerdDefaults),
				Effective: slices.Clone(containerdDefaults),
			},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
	}
}

// ctrRunDropping is `ctr run` as root with only the capabilities keep.
func ctrRunDropping(keep ...string) *specs.Spec {
	spec := ctrRun(0)
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: keep, Permitted: keep, Effective: keep}
	return spec
}

func gateway(allow ...string) *profile.Profile {
	return &profile.Profile{
		Gateway: profile.Gateway{User: 64990, Group: 64991, Groups: []uint32{64992}},
		Posture: profile.Posture{Allow: allow},
	}
}

func ids(findings []Finding) []string {
	names := []string{}
	for _, f := range findings {
		names = append(names, f.ID)
	}
	return names
}

func TestEachWayToTheGatewayIsFound(t *testing.T) {
	tests := []struct {
		name string
		spec *specs.Spec
		edit func(*specs.Spec)
		want []string
	}{
		{name: "ctr run --user 1000", spec: ctrRun(1000)},
		{name: "root without dangerous capabilities", spec: ctrRunDropping("CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE", "CAP_SYS_CHROOT")},
		{name: "ctr run as root", spec: ctrRun(0), want: []string{
			"workload-cap-kill", "workload-cap-dac-override", "workload-cap-fowner", "workload-cap-chown", "workload-cap-setuid",
			"workload-cap-setgid", "workload-cap-setfcap", "workload-cap-net-raw", "workload-cap-mknod",
		}},
		{name: "root with KILL", spec: ctrRunDropping("CAP_KILL"), want: []string{"workload-cap-kill"}},
		{
			name: "root with KILL in the bounding set alone gets it at exec", spec: ctrRunDropping(), want: []string{"workload-cap-kill"},
			edit: func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_KILL"} },
		},
		{
			name: "root with KILL in the inheritable set alone gets it at exec", spec: ctrRunDropping(), want: []string{"workload-cap-kill"},
			edit: func(s *specs.Spec) { s.Process.Capabilities.Inheritable = []string{"CAP_KILL"} },
		},
		{
			name: "root with KILL outside the bounding set loses it at exec", spec: ctrRunDropping("CAP_KILL"),
			edit: func(s *specs.Spec) { s.Process.Capabilities.Bounding = nil },
		},
		{
			name: "ambient capabilities outlive the exec", spec: ctrRun(1000), want: []string{"workload-cap-sys-ptrace"},
			edit: func(s *specs.Spec) {
				s.Process.Capabilities.Ambient = []string{"CAP_SYS_PTRACE", "CAP_NET_BIND_SERVICE"}
			},
		},
		{
			name: "inheritable without ambient is lost", spec: ctrRun(1000),
			edit: func(s *specs.Spec) { s.Process.Capabilities.Inheritable = []string{"CAP_KILL"} },
		},
		{
			name: "privileged", spec: ctrRunDropping("CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"),
			want: []string{"workload-cap-sys-admin", "workload-cap-dac-read-search", "workload-cap-net-admin", "workload-cap-sys-module"},
		},
		{
			name: "setuid files can give a user the bounding set", spec: ctrRun(1000),
			edit: func(s *specs.Spec) {
				s.Process.NoNewPrivileges = false
				s.Process.Capabilities.Bounding = []string{"CAP_KILL"}
			},
			want: []string{"workload-new-privileges", "workload-cap-kill"},
		},
		{
			name: "no_new_privs off with an empty bounding set", spec: ctrRun(1000),
			edit: func(s *specs.Spec) {
				s.Process.NoNewPrivileges = false
				s.Process.Capabilities.Bounding = nil
			},
			want: []string{"workload-new-privileges"},
		},
		{name: "the host's PID namespace", spec: ctrRun(1000), edit: func(s *specs.Spec) { s.Linux.Namespaces = nil }, want: []string{"workload-host-pid"}},
		{name: "no linux part", spec: ctrRun(1000), edit: func(s *specs.Spec) { s.Linux = nil }, want: []string{"workload-host-pid"}},
		{
			name: "another container's PID namespace", spec: ctrRun(1000), want: []string{"workload-host-pid"},
			edit: func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/7/ns/pid" },
		},
		{name: "the gateway's UID", spec: ctrRun(1000), edit: func(s *specs.Spec) { s.Process.User.UID = 64990 }, want: []string{WorkloadUID}},
		{name: "the gateway's group", spec: ctrRun(1000), edit: func(s *specs.Spec) { s.Process.User.GID = 64991 }, want: []string{WorkloadGID}},
		{
			name: "the gateway's group among the additional", spec: ctrRun(1000), want: []string{WorkloadGID},
			edit: func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{5, 64991, 64991} },
		},
		{
			name: "a supplementary group of the gateway", spec: ctrRun(1000), want: []string{WorkloadGID},
			edit: func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{64992} },
		},
		{name: "the gateway's UID as a group", spec: ctrRun(1000), edit: func(s *specs.Spec) { s.Process.User.GID = 64990 }, want: []string{WorkloadGID}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.edit != nil {
				test.edit(test.spec)
			}
			r := Check(test.spec, gateway(), false)
			if got := ids(r.Refused); !slices.Equal(got, test.want) {
				t.Errorf("found %v, not %v", got, test.want)
			}
			if len(r.Allowed) != 0 {
				t.Errorf("allowed %v", ids(r.Allowed))
			}
		})
	}
}

func TestASpecificationWithoutProcessIsTakenForRootWithEverything(t *testing.T) {
	got := ids(Check(&specs.Spec{}, gateway(), false).Refused)
	if len(got) != len(profile.DangerousCapabilities(false))+2 {
		t.Errorf("found %v", got)
	}
}

func TestTheProfileAllowsWhatItNamesAndNothingElse(t *testing.T) {
	spec := ctrRunDropping("CAP_KILL", "CAP_NET_ADMIN")
	spec.Process.User.GID = 64991
	r := Check(spec, gateway("workload-cap-kill", "workload-cap-sys-admin", WorkloadGID), false)
	if got := ids(r.Refused); !slices.Equal(got, []string{WorkloadGID, "workload-cap-net-admin"}) {
		t.Errorf("refused %v", got)
	}
	if got := Allows(r); !slices.Equal(got, []string{"workload-cap-kill"}) {
		t.Errorf("allowed %v; only what was needed counts", got)
	}
	r = Check(ctrRun(1000), gateway("workload-cap-kill"), false)
	if r.Err() != nil || Allows(r) == nil || len(Allows(r)) != 0 {
		t.Errorf("%v, %v", r.Err(), Allows(r))
	}
}

func TestTheRefusalNamesFindingCureAndWayAround(t *testing.T) {
	spec := ctrRunDropping("CAP_KILL", "CAP_SYS_PTRACE")
	spec.Process.NoNewPrivileges = false
	spec.Linux = nil
	err := Check(spec, gateway(), false).Err()
	e, ok := errors.AsType[*code.Error](err)
	if !ok || e.Code != code.PostureRefused || e.Stage != code.StageInstall || e.Retryable {
		t.Fatalf("%#v", err)
	}
	for _, want := range []string{
		"\n  workload-cap-kill: the workload runs as root and holds CAP_KILL: it can send any signal",
		"ctr run --cap-drop CAP_KILL --cap-drop CAP_SYS_PTRACE; nerdctl or docker run --cap-drop KILL --cap-drop SYS_PTRACE; Kubernetes securityContext.capabilities.drop: [\"KILL\", \"SYS_PTRACE\"]",
		"--allow-new-privs", "--security-opt no-new-privileges", "allowPrivilegeEscalation: false",
		"hostPID: false", "--pid host",
		`[posture] allow = ["workload-host-pid", "workload-new-privileges", "workload-cap-kill", "workload-cap-sys-ptrace"]`,
	} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("no %q in:\n%s", want, e.Message)
		}
	}
}

func TestAnOverlapOfIdentityOffersNoWayAround(t *testing.T) {
	spec := ctrRun(64990)
	message := Check(spec, gateway(), false).Err().Error()
	if strings.Contains(message, "allow") || !strings.Contains(message, "--user") || !strings.Contains(message, "runAsUser") {
		t.Error(message)
	}
}

func TestFileCapabilitiesOfTheProgramCountForAUserUnderNoNewPrivs(t *testing.T) {
	const kill, chown, netBind = 1 << 5, 1 << 0, 1 << 10
	tests := []struct {
		name string
		spec *specs.Spec
		edit func(*specs.Spec)
		file uint64
		want []string
	}{
		{name: "none", spec: ctrRun(1000)},
		{name: "kept", spec: ctrRun(1000), file: kill | chown | netBind, want: []string{"workload-cap-kill", "workload-cap-chown"}},
		{name: "not in the permitted set", spec: ctrRun(1000), file: kill, edit: func(s *specs.Spec) { s.Process.Capabilities.Permitted = nil }},
		{name: "no capabilities object: full sets", spec: ctrRun(1000), file: kill, edit: func(s *specs.Spec) { s.Process.Capabilities = nil }, want: []string{"workload-cap-kill"}},
		{name: "root is Check's", spec: ctrRun(0), file: kill},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.edit != nil {
				test.edit(test.spec)
			}
			r := CheckProgram(test.spec, gateway(), false, "/bin/app", test.file)
			if got := ids(r.Refused); !slices.Equal(got, test.want) {
				t.Errorf("found %v, not %v", got, test.want)
			}
			if err := r.Err(); err != nil && !strings.Contains(err.Error(), "/bin/app") {
				t.Error(err)
			}
		})
	}
}

func TestInAUserNamespaceOnlyWhatTheInitialOneAsksForDoesNotCount(t *testing.T) {
	everything := &specs.Spec{}
	here, apart := ids(Check(everything, gateway(), false).Refused), ids(Check(everything, gateway(), true).Refused)
	var gone []string
	for _, id := range here {
		if !slices.Contains(apart, id) {
			gone = append(gone, id)
		}
	}
	want := []string{"workload-cap-bpf", "workload-cap-mknod", "workload-cap-perfmon", "workload-cap-sys-boot", "workload-cap-sys-module", "workload-cap-sys-rawio"}
	slices.Sort(gone)
	if !slices.Equal(gone, want) || len(apart)+len(gone) != len(here) {
		t.Errorf("what does not count is %v, want %v", gone, want)
	}
	if r := Check(ctrRunDropping("CAP_MKNOD", "CAP_BPF"), gateway(), true); r.Err() != nil {
		t.Error(r.Err())
	}
	err := Check(ctrRunDropping("CAP_MKNOD", "CAP_KILL"), gateway(), true).Err()
	if err == nil || !strings.Contains(err.Error(), "user namespace is no protection here") || strings.Contains(err.Error(), "CAP_MKNOD") {
		t.Errorf("the refusal is %v", err)
	}
	if err := Check(ctrRunDropping("CAP_KILL"), gateway(), false).Err(); err == nil || strings.Contains(err.Error(), "user namespace") {
		t.Errorf("the refusal is %v", err)
	}
	if r := CheckProgram(ctrRun(1000), gateway(), true, "/bin/app", 1<<27|1<<5); !slices.Equal(ids(r.Refused), []string{"workload-cap-kill"}) {
		t.Errorf("of a program with CAP_MKNOD and CAP_KILL counts %v", ids(r.Refused))
	}
}

func TestAGatewayIsWhoItsUserNamespaceMapsItTo(t *testing.T) {
	all := idmap.Ranges{{Inside: 0, Host: 200000, Count: 65536}}
	host, err := Host(gateway(), idmap.Maps{UIDs: all, GIDs: all, Apart: true})
	if err != nil || host.UID != 264990 || host.GID != 264991 || !slices.Equal(host.Groups, []uint32{264992}) {
		t.Errorf("%+v, %v", host, err)
	}
	for name, test := range map[string]struct {
		uids, gids idmap.Ranges
		want       string
	}{
		"no UID":       {all[:0], all, "user (UID 64990):"},
		"no GID":       {all, idmap.Ranges{{Inside: 64992, Host: 1, Count: 1}}, "group (GID 64991): it has the UIDs 0-65535 (200000-265535 here) and the GIDs 64992 (1 here)"},
		"a group less": {all, idmap.Ranges{{Inside: 64991, Host: 1, Count: 1}}, "groups (GID 64992):"},
		"nothing":      {nil, nil, "user (UID 64990), group (GID 64991), groups (GID 64992):"},
		"root's UID":   {idmap.Ranges{{Inside: 64990, Host: 0, Count: 1}}, all, "the host's root (0)"},
		"root's GID":   {all, idmap.Ranges{{Inside: 64992, Host: 0, Count: 1}, {Inside: 64991, Host: 5, Count: 1}}, "the host's root (0)"},
	} {
		_, err := Host(gateway(), idmap.Maps{UIDs: test.uids, GIDs: test.gids, Apart: true})
		if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != code.PostureRefused || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestRootsFilesBelongToWhoeverIsRootInsideOrHere(t *testing.T) {
	maps := idmap.Maps{UIDs: idmap.Ranges{{Inside: 0, Host: 200000, Count: 1000}, {Inside: 1000, Host: 0, Count: 1}, {Inside: 1001, Host: 5, Count: 10}}}
	for uid, want := range map[uint32]bool{0: true, 1000: true, 1001: false} {
		if OwnsRoot(ctrRun(uid), maps) != want {
			t.Errorf("UID %d: %v", uid, !want)
		}
	}
	spec := ctrRun(1001)
	spec.Process.NoNewPrivileges = false
	if !OwnsRoot(spec, maps) || !OwnsRoot(&specs.Spec{}, maps) {
		t.Error("who may become root is not taken for it")
	}
}
