package oci

import (
	"strings"
	"testing"
)

// pod gives the annotations that a CRI implementation writes for a container of that name, "" for the sandbox, in a pod with
// the annotations given.
func pod(cri, name string, annotations map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range annotations {
		all[k] = v
	}
	kind := "container"
	if name == "" {
		kind = "sandbox"
	}
	switch cri {
	case "containerd":
		all["io.kubernetes.cri.container-type"] = kind
		all["io.kubernetes.cri.sandbox-namespace"] = "agents"
		all["io.kubernetes.cri.sandbox-id"] = "cafe01"
		if name != "" {
			all["io.kubernetes.cri.container-name"] = name
		}
	case "cri-o":
		all["io.kubernetes.cri-o.ContainerType"] = kind
		all["io.kubernetes.pod.namespace"] = "agents"
		if name != "" {
			all["io.kubernetes.container.name"] = name
		}
	}
	return all
}

func TestInAPodTheAnnotationNamesTheContainer(t *testing.T) {
	two := map[string]string{GatewayAnnotation + "/web": "demo", GatewayAnnotation + "/db-1": "other", "unrelated/web": "x", GatewayAnnotation + "s": "/"}
	for _, cri := range []string{"containerd", "cri-o"} {
		for name, want := range map[string]string{"web": "demo", "db-1": "other", "sidecar": "", "": ""} {
			if got, err := Gateway(pod(cri, name, two)); got != want || err != nil {
				t.Errorf("%s, container %q: %q, %v, want %q", cri, name, got, err, want)
			}
		}
	}
}

func TestAnAnnotationThatDoesNotSayClearlyWhoGetsTheGatewayIsAnErrorForEveryContainer(t *testing.T) {
	plain := map[string]string{GatewayAnnotation: "demo"}
	tests := map[string]struct {
		annotations map[string]string
		want        string
	}{
		"the plain form reaches a container":      {pod("cri-o", "web", plain), "reaches all of them; write io.gatewarden.gateway/web: demo if it is this one"},
		"and the pause container":                 {pod("cri-o", "", plain), "write io.gatewarden.gateway/CONTAINER: demo, with the container's name"},
		"the plain form beside the other":         {pod("containerd", "web", map[string]string{GatewayAnnotation: "demo", GatewayAnnotation + "/web": "demo"}), "io.gatewarden.gateway/web are both there"},
		"a container's name outside a pod":        {map[string]string{GatewayAnnotation + "/web": "demo"}, "is in none; write io.gatewarden.gateway=demo"},
		"no name after the slash":                 {pod("containerd", "web", map[string]string{GatewayAnnotation + "/": "demo"}), "does not name a container"},
		"a name that no container can have":       {pod("containerd", "web", map[string]string{GatewayAnnotation + "/Web": "demo"}), "does not name a container"},
		"two slashes":                             {pod("containerd", "web", map[string]string{GatewayAnnotation + "/a/web": "demo"}), "does not name a container"},
		"another container's bad profile":         {pod("containerd", "web", map[string]string{GatewayAnnotation + "/db": "../x"}), "io.gatewarden.gateway/db=\"../x\" does not name a profile"},
		"a bad profile, seen by the sandbox":      {pod("containerd", "", map[string]string{GatewayAnnotation + "/db": ""}), "does not name a profile"},
		"a key with escapes":                      {pod("containerd", "web", map[string]string{GatewayAnnotation + "/\x1b[2J": "demo"}), `\x1b[2J`},
		"an empty container name from the engine": {map[string]string{containerdType: "container", GatewayAnnotation: "demo"}, "io.gatewarden.gateway/CONTAINER: demo"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Gateway(test.annotations)
			if got != "" || err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestInAPodOfContainerdsTheShortFormIsForWhicheverContainerHasIt(t *testing.T) {
	plain := map[string]string{GatewayAnnotation: "demo"}
	for name, want := range map[string]string{"web": "demo", "": ""} {
		annotations := pod("containerd", name, plain)
		got, err := Gateway(annotations)
		if got != want || err != nil {
			t.Errorf("container %q: %q, %v, want %q", name, got, err, want)
		}
		place, err := PlaceOf(annotations)
		if unnamed := Unnamed(annotations, place); unnamed != (name == "web") || err != nil {
			t.Errorf("container %q: unnamed %v, %v", name, unnamed, err)
		}
	}
	for _, annotations := range []map[string]string{plain, pod("containerd", "web", map[string]string{GatewayAnnotation + "/web": "demo"})} {
		if place, err := PlaceOf(annotations); Unnamed(annotations, place) || err != nil {
			t.Errorf("%v says who gets the gateway (%v)", annotations, err)
		}
	}
}

func TestThePlaceOfAContainerIsWhatItsEngineSays(t *testing.T) {
	for cri, sandbox := range map[string]string{"containerd": "cafe01", "cri-o": ""} {
		for name, want := range map[string]Place{
			"web": {Pod: true, Namespace: "agents", Container: "web", SandboxID: sandbox},
			"":    {Pod: true, Namespace: "agents", Sandbox: true, SandboxID: sandbox},
		} {
			if got, err := PlaceOf(pod(cri, name, nil)); got != want || err != nil {
				t.Errorf("%s, %q: %+v, %v", cri, name, got, err)
			}
		}
	}
	// What a pod's author adds of another engine's does not make the container another one.
	for _, forged := range []map[string]string{
		pod("containerd", "web", map[string]string{crioType: "container", kubeletName: "web", kubeletNamespace: "trusted"}),
		pod("cri-o", "web", map[string]string{containerdType: "container", containerdName: "web", containerdNamespace: "trusted"}),
	} {
		if got, err := PlaceOf(forged); got != (Place{}) || err == nil || !strings.Contains(err.Error(), "of two engines") {
			t.Errorf("%+v, %v", got, err)
		}
		forged[GatewayAnnotation+"/web"] = "demo"
		if got, err := Gateway(forged); got != "" || err == nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestPodmanAnnotatesTheContainersOfItsPodsOneByOne(t *testing.T) {
	annotations := map[string]string{crioType: "container", GatewayAnnotation: "demo"}
	if got, err := Gateway(annotations); got != "demo" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if place, err := PlaceOf(annotations); place != (Place{}) || err != nil {
		t.Errorf("its place is %+v, %v", place, err)
	}
	// Its infra container is told from the others.
	annotations[crioType] = "sandbox"
	if place, err := PlaceOf(annotations); place != (Place{Pod: true, Sandbox: true}) || err != nil {
		t.Errorf("the sandbox's place is %+v, %v", place, err)
	}
}

func FuzzGateway(f *testing.F) {
	f.Add("", "", "demo", "")
	f.Add("containerd", "web", "demo", "/web")
	f.Add("containerd", "", "demo", "/web")
	f.Add("cri-o", "web", "../x", "/db")
	f.Add("cri-o", "web", "demo", "/a/b")
	f.Fuzz(func(t *testing.T, cri, container, profile, suffix string) {
		annotations := pod(cri, container, map[string]string{GatewayAnnotation + suffix: profile})
		name, err := Gateway(annotations)
		if err != nil {
			if len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\x00\x1b\n") {
				t.Errorf("error %q", err)
			}
			return
		}
		place, err := PlaceOf(annotations)
		switch {
		case err != nil:
			t.Errorf("%q with %v", name, err)
		case name == "":
		case !ValidProfileName(name) || name != profile:
			t.Errorf("%q gives %q", profile, name)
		case place.Sandbox:
			t.Errorf("the sandbox gets %q", name)
		case suffix == "" && place.Pod && place.SandboxID == "", suffix != "" && (!place.Pod || suffix != "/"+container):
			t.Errorf("container %q of %+v gets %q by %q", container, place, name, suffix)
		}
	})
}
