package profile

import (
	"slices"
	"strings"
)

// The names in [posture] allow, beside those of CapabilityException.
const (
	AllowHostPID       = "workload-host-pid"       // the container shares the host's PID namespace
	AllowNewPrivileges = "workload-new-privileges" // noNewPrivileges is off
)

const capabilityException = "workload-cap-"

// dangerous lists the capabilities by which a workload in the gateway's PID, network, mount and user namespaces, but
// under another UID, reaches the gateway's memory, files, signals, limits, port or traffic (capabilities(7)). Left out
// on purpose:
//
//   - NET_BIND_SERVICE: ports below 1024 become like all others, which anybody can bind; the listener proof sees it.
//   - SETPCAP: moves capabilities between sets, but never beyond the bounding set, which exec gives to UID 0 anyway.
//   - SYS_CHROOT: another root directory for the workload itself; entering a namespace needs SYS_ADMIN besides.
//   - SYS_NICE, IPC_LOCK, SYS_PACCT, LEASE, SYS_TIME, BLOCK_SUSPEND, WAKE_ALARM: slow or confuse, as any workload can
//     that uses up its CPU or memory, but give no hold on the gateway.
//   - CHECKPOINT_RESTORE: chooses PIDs and fakes its own /proc/PID/exe; identity here is a pidfd, and the checks of
//     /proc on other processes still ask for SYS_PTRACE.
//   - FSETID, LINUX_IMMUTABLE, MAC_OVERRIDE, NET_BROADCAST, SYSLOG, SYS_TTY_CONFIG, AUDIT_CONTROL, AUDIT_READ,
//     AUDIT_WRITE: concern the workload's own files, the kernel's logs or nothing of the gateway's.
var dangerous = []struct{ name, reason string }{
	{"CAP_KILL", "it can send any signal to the gateway"},
	{"CAP_SYS_PTRACE", "it can read and change the gateway's memory, environment and open files"},
	{"CAP_SYS_ADMIN", "it can mount over the gateway's files and enter namespaces"},
	{"CAP_DAC_OVERRIDE", "it can change the gateway's binary, state and sockets whatever their permissions"},
	{"CAP_DAC_READ_SEARCH", "it can read the gateway's secrets and state whatever their permissions"},
	{"CAP_FOWNER", "it can change the permissions of the gateway's files"},
	{"CAP_CHOWN", "it can make itself the owner of the gateway's files"},
	{"CAP_SETUID", "it can become the gateway's UID"},
	{"CAP_SETGID", "it can join the gateway's group and open what that may open"},
	{"CAP_SETFCAP", "it can give a program file any of these capabilities"},
	{"CAP_NET_ADMIN", "it can redirect the gateway's traffic and close its sockets"},
	{"CAP_NET_RAW", "it can read the gateway's traffic, also on loopback, and forge packets into it"},
	{"CAP_SYS_RESOURCE", "it can lower the gateway's resource limits, which ends it (prlimit)"},
	{"CAP_IPC_OWNER", "it can read and change the gateway's System V shared memory"},
	{"CAP_SYS_MODULE", "it can load a kernel module"},
	{"CAP_SYS_RAWIO", "it can read the kernel's memory and drive the hardware"},
	{"CAP_SYS_BOOT", "it can replace the running kernel (kexec)"},
	{"CAP_BPF", "it can load programs into the kernel"},
	{"CAP_PERFMON", "it can sample the gateway's registers and stack"},
	{"CAP_MKNOD", "it can make the node of a block device and, where the device rules let it, change the files on it"},
	{"CAP_MAC_ADMIN", "it can change the security policy that confines the gateway"},
}

// initialOnly are those of dangerous that the kernel asks for in the initial user namespace alone (capable(), not ns_capable(),
// which mknod(2), init_module(2), iopl(2), kexec_load(2), bpf(2) and perf_event_open(2) come down to). Whoever holds them in
// another one, its root included, can do nothing by them to the gateway. What is left of CAP_SYS_BOOT there is reboot(2), which
// ends the container.
var initialOnly = []string{"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_BPF", "CAP_PERFMON", "CAP_MKNOD"}

// DangerousCapabilities lists the capabilities ("CAP_KILL", …) by which a workload could reach the gateway. With apart both
// live in a user namespace that is not the initial one.
func DangerousCapabilities(apart bool) []string {
	var names []string
	for _, c := range dangerous {
		if !apart || !slices.Contains(initialOnly, c.name) {
			names = append(names, c.name)
		}
	}
	return names
}

// CapabilityReason says in one line how a workload that holds the capability could reach the gateway, "it can …"; ""
// if it could not.
func CapabilityReason(capability string) string {
	for _, c := range dangerous {
		if c.name == capability {
			return c.reason
		}
	}
	return ""
}

// CapabilityException gives the name in [posture] allow for a capability: "workload-cap-sys-ptrace" for
// "CAP_SYS_PTRACE".
func CapabilityException(capability string) string {
	name := strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
	return capabilityException + strings.ReplaceAll(name, "_", "-")
}

// Allows says whether the administrator allowed the exception.
func (p Posture) Allows(exception string) bool { return slices.Contains(p.Allow, exception) }

// exceptions lists every name that [posture] allow takes.
func exceptions() []string {
	var names []string
	for _, c := range dangerous {
		names = append(names, CapabilityException(c.name))
	}
	return append(names, AllowHostPID, AllowNewPrivileges)
}
