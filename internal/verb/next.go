package verb

import (
	"errors"
	"io/fs"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// advise prints the line that says what to do after c, of an error about t: a command that exists, works as it stands
// there, and is not the one that has just failed. gateway is the profile's name, "" if it is not known. What the message
// itself can say it says; here is what only this side of the socket knows: who asks, and from where.
func (in *Invocation) advise(t gateways.Target, gateway string, c code.Code) {
	file, check := "its profile", in.onHost("gatewarden doctor") // which checks all of them
	if gateway != "" {
		file = in.Config.ProfileDir + "/" + gateway + ".toml"
		check = in.onHost("gatewarden profile check " + file)
	}
	wardenLog := in.Config.LogDir + "/" + t.String() + "/warden.log on the host"
	switch c {
	case code.InvalidProfile:
		in.next("%s lists every problem with its place", check)
	case code.PostureRefused:
		in.next("create the container again with the cure above, or change %s on the host and check it with %s", file, check)
	case code.UntrustedBinary:
		if in.Command != nil && in.Command.Name == "status" {
			in.next("put the file right, in the image or in its [[mount]]; then %s starts it", in.hint("restart", t))
			return
		}
		in.next("put the file right, in the image or in its [[mount]]; %s shows what runs meanwhile", in.hint("status", t))
	case code.NotManaged, code.NotRunning:
		in.next("%s lists the containers that have a gateway", in.onHost("gatewarden ps"))
	case code.Paused:
		in.next("%s resumes it", in.onHost("ctr --namespace "+t.Namespace+" task resume "+t.ID))
	case code.Busy, code.Deadline:
		in.next("%s tells what runs now", in.look(t))
	case code.PreflightFailed:
		in.next("put right what the message names; %s shows the present state and generation", in.look(t))
	case code.RolledBack:
		in.next("%s shows what it wrote; %s shows what was turned down", in.hint("logs", t), in.onHost("gatewarden generations "+t.String()))
	case code.StopFailed:
		in.next("%s tells whether the process is still there; in state D it waits for a device or a file server: look at these", in.look(t))
	case code.LaunchFailed, code.ProbeFailed:
		in.next("%s shows what it wrote", in.hint("logs", t))
	case code.PostureMismatch:
		in.next("%s has what the kernel showed; do not trust this container before you know why", in.hint("receipts --json", t))
	case code.ListenerMissing:
		in.next("%s shows what it wrote; compare where it listens with [[listen]] in %s", in.hint("logs", t), file)
	case code.ListenerContested:
		in.next("end the process that the message names; %s tells when the address is free", in.hint("probe", t))
	case code.ForwardFailed:
		in.next("see to what listens on that address of the host: whether it runs, and leads to this container; then %s looks again", in.hint("probe", t))
	case code.CrashLoop:
		in.next("%s shows why it ends; then %s tries again", in.hint("logs", t), in.hint("restart", t))
	case code.WardenLost:
		in.nextWithoutWarden(t)
	case code.Internal:
		in.next("read %s; %s shows what else is wrong", wardenLog, in.onHost("gatewarden doctor"))
	}
}

// look gives the line to type to see how t is, after any verb.
func (in *Invocation) look(t gateways.Target) string {
	if in.Command != nil && in.Command.Name == "status" {
		return in.onHost("gatewarden doctor")
	}
	return in.hint("status", t)
}

// onHost names a command that is not offered in a virtual exec.
func (in *Invocation) onHost(command string) string {
	command = "`" + command + "`"
	if in.Target != nil {
		return "on the host, " + command
	}
	return command
}

// nextWithoutWarden says what is left to do when nobody supervises t. restart and recover have tried to start a warden
// themselves: then it is of no use to name them.
func (in *Invocation) nextWithoutWarden(t gateways.Target) {
	log := in.Config.LogDir + "/" + t.String() + "/warden.log on the host"
	if in.Command != nil && (in.Command.Name == "restart" || in.Command.Name == "recover" || in.Command.Name == "upgrade-warden") {
		in.next("%s tells what keeps a warden from working; what became of this one: %s", in.onHost("gatewarden doctor"), log)
		return
	}
	in.next("%s starts a new warden, which adopts the gateway if it is well; what became of the old one: %s", in.hint("recover", t), log)
}

// failOn is Fail for an error about t.
func (in *Invocation) failOn(t gateways.Target, err error) int {
	exit := in.Fail(err)
	if !errors.Is(err, fs.ErrPermission) { // Fail has said that only root may
		in.advise(t, "", code.From(err, code.StageQueue).Code)
	}
	return exit
}
