package verb

import (
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// Host is what the invocation asks by.
func (in *Invocation) Host() gateways.Host {
	return gateways.Host{Config: in.Config, Namespace: in.Namespace, Via: in.Via}
}

// target gives the container that the invocation is about: the virtual exec's own, or the one that its only argument
// names. dirs are the directories below which NAMESPACE/ID directories are looked for.
func (in *Invocation) target(dirs ...string) (gateways.Target, int) {
	if in.Target != nil {
		if len(in.Args) != 0 {
			return gateways.Target{}, in.Usage("inside a container %s acts on that container and takes no argument such as %q", in.Command.Name, in.Args[0])
		}
		return *in.Target, code.ExitOK
	}
	switch len(in.Args) {
	case 0:
		return gateways.Target{}, in.Usage("%s needs a container; gatewarden ps lists them", in.Command.Name)
	case 1:
	default:
		return gateways.Target{}, in.Usage("%s takes one container, not %d arguments", in.Command.Name, len(in.Args))
	}
	t, err := in.Host().Find(in.Args[0], dirs...)
	if e, ok := errors.AsType[*gateways.AmbiguousError](err); ok {
		fmt.Fprintf(in.Stderr, "gatewarden: %s\n", e)
		return gateways.Target{}, code.ExitUsage
	}
	if err != nil {
		exit := in.Fail(err)
		if code.From(err, code.StageQueue).Code == code.NotManaged {
			in.advise(gateways.Target{}, "", code.NotManaged)
		}
		return gateways.Target{}, exit
	}
	return t, code.ExitOK
}
