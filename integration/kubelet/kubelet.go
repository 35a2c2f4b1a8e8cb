package kubelet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Settings of the node.
type Settings struct {
	Socket       string   // where the CRI implementation serves
	Network      *os.File // its network namespace, in which it listens for streams
	CgroupParent string   // of every pod
	LogDirectory string   // of every pod
}

// Node is a client of the CRI implementation of one node.
type Node struct {
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient

	conn     *grpc.ClientConn
	settings Settings
}

// Connect makes a client. The connection survives a restart of the implementation.
func Connect(s Settings) (*Node, error) {
	conn, err := grpc.NewClient("unix://"+s.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &Node{Runtime: cri.NewRuntimeServiceClient(conn), Images: cri.NewImageServiceClient(conn), conn: conn, settings: s}, nil
}

// Close ends the connection.
func (n *Node) Close() error { return n.conn.Close() }

// WaitForImage waits until the implementation knows an image: one that was imported beside it becomes known by an event.
func (n *Node) WaitForImage(ctx context.Context, name string) error {
	for {
		r, err := n.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		if err != nil {
			return fmt.Errorf("ask for image %s: %w", name, err)
		}
		if r.GetImage() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("image %s does not become known: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Running is a pod that was begun on a node.
type Running struct {
	ID string // of its sandbox

	pod      Pod
	node     *Node
	config   *cri.PodSandboxConfig
	ids      map[string]string // the current container of each name
	made     []string          // every container
	attempts map[string]uint32
}

// Run makes the sandbox of a pod and then, in their order, its containers, and starts each. handler is that of the pod's
// RuntimeClass. What was made is in the result also when there is an error; it is nil if there is not even a sandbox.
func (n *Node) Run(ctx context.Context, pod Pod, handler string) (*Running, error) {
	r, err := n.Sandbox(ctx, pod, handler)
	if err != nil {
		return nil, err
	}
	for _, c := range pod.Spec.Containers {
		if err := r.Start(ctx, c.Name); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Sandbox makes the sandbox of a pod alone.
func (n *Node) Sandbox(ctx context.Context, pod Pod, handler string) (*Running, error) {
	uid := rand.Text()
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: pod.Metadata.Name, Uid: uid, Namespace: "default"},
		LogDirectory: n.settings.LogDirectory,
		DnsConfig:    &cri.DNSConfig{},
		Labels:       map[string]string{"io.kubernetes.pod.name": pod.Metadata.Name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": uid},
		Annotations:  pod.Metadata.Annotations,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    n.settings.CgroupParent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: pod.namespaces(), Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}},
		},
	}
	if !pod.Spec.HostNetwork {
		config.Hostname = pod.Metadata.Name
	}
	resp, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return nil, err
	}
	return &Running{ID: resp.PodSandboxId, pod: pod, node: n, config: config, ids: map[string]string{}, attempts: map[string]uint32{}}, nil
}

// Start makes the container of that name and starts it. One that cannot be started is removed, as the kubelet's garbage
// collection does in time.
func (r *Running) Start(ctx context.Context, name string) error {
	c, err := r.pod.container(name)
	if err != nil {
		return err
	}
	security, err := r.pod.security(c)
	if err != nil {
		return err
	}
	created, err := r.node.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  r.ID,
		SandboxConfig: r.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name, Attempt: r.attempts[name]},
			Image:    &cri.ImageSpec{Image: c.Image, UserSpecifiedImage: c.Image},
			Command:  c.Command,
			LogPath:  fmt.Sprintf("%s_%s_%d.log", r.config.Metadata.Uid, name, r.attempts[name]),
			Labels: map[string]string{"io.kubernetes.container.name": name, "io.kubernetes.pod.name": r.pod.Metadata.Name,
				"io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": r.config.Metadata.Uid},
			Annotations: c.Annotations,
			Linux:       &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{OomScoreAdj: 1000}, SecurityContext: security},
		},
	})
	r.attempts[name]++
	if err != nil {
		return fmt.Errorf("create container %s: %w", name, err)
	}
	r.made = append(r.made, created.ContainerId)
	if _, err := r.node.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		_, rerr := r.node.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: created.ContainerId})
		return errors.Join(fmt.Errorf("start container %s: %w", name, err), rerr)
	}
	r.ids[name] = created.ContainerId
	return nil
}

// Container is the ID of the current container of that name, "" if there is none.
func (r *Running) Container(name string) string { return r.ids[name] }

// Made lists the IDs of all containers that were made.
func (r *Running) Made() []string { return slices.Clone(r.made) }

// Attempts tells how often the container of that name was made.
func (r *Running) Attempts(name string) uint32 { return r.attempts[name] }

// State gives the state of the current container of that name.
func (r *Running) State(ctx context.Context, name string) (*cri.ContainerStatus, error) {
	resp, err := r.node.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: r.ids[name]})
	return resp.GetStatus(), err
}

// Stop stops the container of that name, with a grace period of a second, and removes it.
func (r *Running) Stop(ctx context.Context, name string) error {
	if _, err := r.node.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: r.ids[name], Timeout: 1}); err != nil {
		return fmt.Errorf("stop container %s: %w", name, err)
	}
	if _, err := r.node.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: r.ids[name]}); err != nil {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	delete(r.ids, name)
	return nil
}

// Restart replaces the container of that name, running or not, by one with the next attempt.
func (r *Running) Restart(ctx context.Context, name string) error {
	if err := r.Stop(ctx, name); err != nil {
		return err
	}
	return r.Start(ctx, name)
}

// Remove ends the pod and removes it. Repeating it is no error.
func (r *Running) Remove(ctx context.Context) error {
	if _, err := r.node.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: r.ID}); err != nil {
		return fmt.Errorf("stop pod %s: %w", r.pod.Metadata.Name, err)
	}
	if _, err := r.node.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.ID}); err != nil {
		return fmt.Errorf("remove pod %s: %w", r.pod.Metadata.Name, err)
	}
	return nil
}

// IP is the pod's address, "" with the host's network.
func (r *Running) IP(ctx context.Context) (string, error) {
	resp, err := r.node.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: r.ID})
	return resp.GetStatus().GetNetwork().GetIp(), err
}
