// Package kubelet does to a CRI implementation what Kubernetes' kubelet does for one pod at a time: it reads a pod and a
// RuntimeClass as users write them, makes the pod's sandbox and containers, makes a container anew when it is to be started again,
// probes, executes, and removes all of it.
package kubelet

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is a v1.Pod of Kubernetes with the fields that the tests' pods have. Reading one with any other is an error.
type Pod struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
	Spec       struct {
		RuntimeClassName      string           `yaml:"runtimeClassName"`
		HostNetwork           bool             `yaml:"hostNetwork"`
		ShareProcessNamespace bool             `yaml:"shareProcessNamespace"`
		HostUsers             *bool            `yaml:"hostUsers"`
		SecurityContext       *SecurityContext `yaml:"securityContext"`
		Containers            []Container      `yaml:"containers"`
	} `yaml:"spec"`
}

// Metadata is metav1.ObjectMeta.
type Metadata struct {
	Name        string            `yaml:"name"`
	Annotations map[string]string `yaml:"annotations"`
}

// Container is a v1.Container.
type Container struct {
	Name            string           `yaml:"name"`
	Image           string           `yaml:"image"`
	Command         []string         `yaml:"command"`
	SecurityContext *SecurityContext `yaml:"securityContext"`
	ReadinessProbe  *Probe           `yaml:"readinessProbe"`
	// Annotations of the CRI container, which clients such as crictl can set, and a pod's author cannot.
	Annotations map[string]string `yaml:"-"`
}

// SecurityContext is both v1.PodSecurityContext and v1.SecurityContext.
type SecurityContext struct {
	RunAsNonRoot             bool   `yaml:"runAsNonRoot"`
	RunAsUser                *int64 `yaml:"runAsUser"`
	RunAsGroup               *int64 `yaml:"runAsGroup"`
	AllowPrivilegeEscalation *bool  `yaml:"allowPrivilegeEscalation"`
	Capabilities             struct {
		Add  []string `yaml:"add"`
		Drop []string `yaml:"drop"`
	} `yaml:"capabilities"`
	SeccompProfile struct {
		Type string `yaml:"type"`
	} `yaml:"seccompProfile"`
}

// Probe is a v1.Probe by exec. Periods are in seconds.
type Probe struct {
	Exec struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
	PeriodSeconds  int64 `yaml:"periodSeconds"`
	TimeoutSeconds int64 `yaml:"timeoutSeconds"`
}

// RuntimeClass is a node.k8s.io/v1 RuntimeClass.
type RuntimeClass struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
	Handler    string   `yaml:"handler"`
}

// UsersFrom is the host's ID of the root of a pod with a user namespace.
const UsersFrom = 262144

// ReadPod reads a file with one pod.
func ReadPod(path string) (Pod, error) {
	pod, err := read[Pod](path)
	if err == nil && (pod.APIVersion != "v1" || pod.Kind != "Pod" || pod.Metadata.Name == "" || len(pod.Spec.Containers) == 0) {
		err = fmt.Errorf("%s is not a pod with containers", path)
	}
	return pod, err
}

// ReadRuntimeClass reads a file with one RuntimeClass.
func ReadRuntimeClass(path string) (RuntimeClass, error) {
	class, err := read[RuntimeClass](path)
	if err == nil && (class.APIVersion != "node.k8s.io/v1" || class.Kind != "RuntimeClass" || class.Metadata.Name == "" || class.Handler == "") {
		err = fmt.Errorf("%s is not a RuntimeClass with a handler", path)
	}
	return class, err
}

func read[T any](path string) (T, error) {
	var v T
	data, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return v, nil
}

// namespaces are the pod's, as the kubelet asks for them (pkg/kubelet/kuberuntime/util).
func (p *Pod) namespaces() *cri.NamespaceOption {
	n := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}
	if p.Spec.HostNetwork {
		n.Network = cri.NamespaceMode_NODE
	}
	if p.Spec.ShareProcessNamespace {
		n.Pid = cri.NamespaceMode_POD
	}
	if p.Spec.HostUsers != nil && !*p.Spec.HostUsers {
		// The kubelet gives each pod a range of 65536 of its own (userns.Manager).
		all := []*cri.IDMapping{{ContainerId: 0, HostId: UsersFrom, Length: 65536}}
		n.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: all, Gids: all}
	}
	return n
}

// security is what the kubelet makes of a container's security context and its pod's (kuberuntime.determineEffectiveSecurityContext).
func (p *Pod) security(c *Container) (*cri.LinuxContainerSecurityContext, error) {
	of := func(s *SecurityContext) SecurityContext {
		if s == nil {
			return SecurityContext{}
		}
		return *s
	}
	pod, own := of(p.Spec.SecurityContext), of(c.SecurityContext)
	s := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: p.namespaces(),
		Capabilities:     &cri.Capability{AddCapabilities: own.Capabilities.Add, DropCapabilities: own.Capabilities.Drop},
		NoNewPrivs:       own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
		MaskedPaths:      maskedPaths,
		ReadonlyPaths:    readonlyPaths,
	}
	if user := first(own.RunAsUser, pod.RunAsUser); user != nil {
		s.RunAsUser = &cri.Int64Value{Value: *user}
	}
	if group := first(own.RunAsGroup, pod.RunAsGroup); group != nil {
		s.RunAsGroup = &cri.Int64Value{Value: *group}
	}
	if (pod.RunAsNonRoot || own.RunAsNonRoot) && (s.RunAsUser == nil || s.RunAsUser.Value == 0) {
		return nil, fmt.Errorf("container %s has runAsNonRoot and would run as root", c.Name)
	}
	seccomp := own.SeccompProfile.Type
	if seccomp == "" {
		seccomp = pod.SeccompProfile.Type
	}
	switch seccomp {
	case "", "Unconfined":
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	case "RuntimeDefault":
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	default:
		return nil, fmt.Errorf("container %s: seccompProfile %q is not known here", c.Name, seccomp)
	}
	return s, nil
}

// The kubelet's defaults (pkg/securitycontext).
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func first(a, b *int64) *int64 {
	if a != nil {
		return a
	}
	return b
}

// container gives the container of that name.
func (p *Pod) container(name string) (*Container, error) {
	i := slices.IndexFunc(p.Spec.Containers, func(c Container) bool { return c.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("pod %s has no container %s", p.Metadata.Name, name)
	}
	return &p.Spec.Containers[i], nil
}
