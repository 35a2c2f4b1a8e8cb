package posture

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/internal/code"
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
			r := Check(test.spec, gateway())
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
	got := ids(Check(&specs.Spec{}, gateway()).Refused)
	if len(got) != len(profile.DangerousCapabilities())+2 {
		t.Errorf("found %v", got)
	}
}

func TestTheProfileAllowsWhatItNamesAndNothingElse(t *testing.T) {
	spec := ctrRunDropping("CAP_KILL", "CAP_NET_ADMIN")
	spec.Process.User.GID = 64991
	r := Check(spec, gateway("workload-cap-kill", "workload-cap-sys-admin", WorkloadGID))
	if got := ids(r.Refused); !slices.Equal(got, []string{WorkloadGID, "workload-cap-net-admin"}) {
		t.Errorf("refused %v", got)
	}
	if got := Allows(r); !slices.Equal(got, []string{"workload-cap-kill"}) {
		t.Errorf("allowed %v; only what was needed counts", got)
	}
	r = Check(ctrRun(1000), gateway("workload-cap-kill"))
	if r.Err() != nil || Allows(r) == nil || len(Allows(r)) != 0 {
		t.Errorf("%v, %v", r.Err(), Allows(r))
	}
}

func TestTheRefusalNamesFindingCureAndWayAround(t *testing.T) {
	spec := ctrRunDropping("CAP_KILL", "CAP_SYS_PTRACE")
	spec.Process.NoNewPrivileges = false
	spec.Linux = nil
	err := Check(spec, gateway()).Err()
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
	message := Check(spec, gateway()).Err().Error()
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
			r := CheckProgram(test.spec, gateway(), "/bin/app", test.file)
			if got := ids(r.Refused); !slices.Equal(got, test.want) {
				t.Errorf("found %v, not %v", got, test.want)
			}
			if err := r.Err(); err != nil && !strings.Contains(err.Error(), "/bin/app") {
				t.Error(err)
			}
		})
	}
}
