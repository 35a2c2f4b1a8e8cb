package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
)

// File is an entry of an image. The kind is in its type bits: a directory, a symbolic link whose target is Content, or a
// regular file.
type File struct {
	Path    string // absolute
	Mode    os.FileMode
	UID     int
	GID     int
	ModTime time.Time // zero: 1970, so that an image is the same each time
	Content []byte
}

// Image describes a test image: the base, with busybox, testgateway and testworkload, and what is added to it.
type Image struct {
	Name    string // "test.local/gateway:latest"
	Files   []File
	Env     []string
	User    string   // empty: root
	Bare    bool     // without the base
	Command []string // empty: sleep
}

// BaseImage is the image that most tests run.
const BaseImage = "test.local/gateway:latest"

// WorkloadUID is the user "agent" of the base image; its group has the same number.
const WorkloadUID = 1000

const busybox = "/bin/busybox"

var applets = []string{
	"cat", "chmod", "cp", "date", "dd", "echo", "env", "false", "find", "grep", "head", "id", "ip", "kill", "ln", "ls", "mkdir", "mkfifo",
	"mount", "nc", "netstat", "ps", "readlink", "rm", "sed", "sh", "sleep", "stat", "stty", "tail", "test", "touch", "true", "tty", "umount",
	"wc",
}

// baseFiles are those of the base image.
func (h *Host) baseFiles() ([]File, error) {
	box, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w: run make deps", err)
	}
	gateway, err := h.TestProgram("testgateway")
	if err != nil {
		return nil, err
	}
	workload, err := h.TestProgram("testworkload")
	if err != nil {
		return nil, err
	}
	files := []File{
		{Path: "/bin", Mode: os.ModeDir | 0o755},
		{Path: "/dev", Mode: os.ModeDir | 0o755},
		{Path: "/etc", Mode: os.ModeDir | 0o755},
		{Path: "/home", Mode: os.ModeDir | 0o755},
		{Path: "/home/agent", Mode: os.ModeDir | 0o755, UID: WorkloadUID, GID: WorkloadUID},
		{Path: "/proc", Mode: os.ModeDir | 0o555},
		{Path: "/run", Mode: os.ModeDir | 0o755},
		{Path: "/sys", Mode: os.ModeDir | 0o555},
		{Path: "/tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
		{Path: "/usr", Mode: os.ModeDir | 0o755},
		{Path: "/usr/local", Mode: os.ModeDir | 0o755},
		{Path: "/usr/local/bin", Mode: os.ModeDir | 0o755},
		{Path: "/var", Mode: os.ModeDir | 0o755},
		{Path: "/var/lib", Mode: os.ModeDir | 0o755},
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\nagent:x:1000:\n")},
		{Path: "/bin/busybox", Mode: 0o755, Content: box},
		{Path: "/usr/local/bin/testgateway", Mode: 0o755, Content: gateway},
		{Path: "/usr/local/bin/testworkload", Mode: 0o755, Content: workload},
		// Programs that are not fit to be a gateway.
		{Path: "/usr/local/bin/not-executable", Mode: 0o644, Content: []byte("#!/bin/sh\nexit 0\n")},
		{Path: "/usr/local/bin/not-roots", Mode: 0o755, UID: WorkloadUID, GID: WorkloadUID, Content: []byte("#!/bin/sh\nexit 0\n")},
		{Path: "/usr/local/bin/writable", Mode: 0o777, Content: []byte("#!/bin/sh\nexit 0\n")},
	}
	for _, a := range applets {
		files = append(files, File{Path: "/bin/" + a, Mode: os.ModeSymlink | 0o777, Content: []byte("busybox")})
	}
	return files, nil
}

// Archive builds an image as an OCI layout in a tar, for ctr image import. Without a name it is the base image.
func (h *Host) Archive(image *Image) ([]byte, error) {
	if image.Name == "" {
		image.Name = BaseImage
	}
	var base []File
	if !image.Bare {
		var err error
		if base, err = h.baseFiles(); err != nil {
			return nil, err
		}
	}
	archive, err := image.archive(base)
	if err != nil {
		return nil, fmt.Errorf("build image %s: %w", image.Name, err)
	}
	return archive, nil
}

// Import builds an image and imports it. Without a name it is the base image.
func (h *Host) Import(ctx context.Context, image Image) error {
	archive, err := h.Archive(&image)
	if err != nil {
		return err
	}
	ctx = h.Context(ctx)
	imported, err := h.client.Import(ctx, bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("import image %s: %w", image.Name, err)
	}
	for _, i := range imported {
		if err := containerd.NewImage(h.client, i).Unpack(ctx, h.snapshotter); err != nil {
			return fmt.Errorf("unpack image %s: %w", image.Name, err)
		}
	}
	return nil
}

// The parts of an image as the OCI image specification 1.1 names them; just what these images need.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	imageConfig struct {
		platform
		Config struct {
			User       string   `json:"User,omitempty"`
			Env        []string `json:"Env"`
			Cmd        []string `json:"Cmd"`
			WorkingDir string   `json:"WorkingDir"`
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
)

const mediaTypes = "application/vnd.oci.image."

// archive gives the image as an OCI layout in a tar: one layer of base, and one of the image's own files.
func (i Image) archive(base []File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	blob := func(mediaType string, data []byte) (descriptor, error) {
		sum := sha256.Sum256(data)
		digest := hex.EncodeToString(sum[:])
		out.Grow(len(data) + 2<<10)
		err := add(w, File{Path: "/blobs/sha256/" + digest, Mode: 0o644, Content: data})
		return descriptor{MediaType: mediaTypes + mediaType, Digest: "sha256:" + digest, Size: len(data)}, err
	}
	blobJSON := func(mediaType string, v any) (descriptor, error) {
		data, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		return blob(mediaType, data)
	}
	here := platform{Architecture: runtime.GOARCH, OS: "linux"}
	config := imageConfig{platform: here}
	config.Config.Env = append([]string{"PATH=/usr/local/bin:/bin"}, i.Env...)
	config.Config.User = i.User
	config.Config.Cmd = []string{"/bin/sleep", "3600"}
	if len(i.Command) > 0 {
		config.Config.Cmd = i.Command
	}
	config.Config.WorkingDir = "/"
	config.RootFS.Type = "layers"
	m := manifest{SchemaVersion: 2, MediaType: mediaTypes + "manifest.v1+json"}
	for _, files := range [][]File{base, i.Files} {
		if len(files) == 0 {
			continue
		}
		data, err := layer(files)
		if err != nil {
			return nil, err
		}
		d, err := blob("layer.v1.tar", data)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
	}
	var err error
	if m.Config, err = blobJSON("config.v1+json", config); err != nil {
		return nil, err
	}
	d, err := blobJSON("manifest.v1+json", m)
	if err != nil {
		return nil, err
	}
	d.Platform = &here
	d.Annotations = map[string]string{"io.containerd.image.name": i.Name}
	list, err := json.Marshal(index{SchemaVersion: 2, MediaType: mediaTypes + "index.v1+json", Manifests: []descriptor{d}})
	if err != nil {
		return nil, err
	}
	for _, f := range []File{
		{Path: "/index.json", Mode: 0o644, Content: list},
		{Path: "/oci-layout", Mode: 0o644, Content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
	} {
		if err := add(w, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func layer(files []File) ([]byte, error) {
	var out bytes.Buffer
	size := 0
	for _, f := range files {
		size += len(f.Content) + 2<<10 // headers and padding
	}
	out.Grow(size)
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := add(w, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// add writes one entry.
func add(w *tar.Writer, f File) error {
	header := &tar.Header{
		Name:    strings.TrimPrefix(path.Clean(f.Path), "/"),
		Mode:    int64(f.Mode.Perm()),
		Uid:     f.UID,
		Gid:     f.GID,
		ModTime: f.ModTime,
		Format:  tar.FormatPAX,
	}
	if f.ModTime.IsZero() {
		header.ModTime = time.Unix(0, 0)
	}
	if f.Mode&os.ModeSetuid != 0 {
		header.Mode |= 0o4000
	}
	if f.Mode&os.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch {
	case f.Mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	case f.Mode&os.ModeSymlink != 0:
		header.Typeflag, header.Linkname = tar.TypeSymlink, string(f.Content)
	default:
		header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Content))
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := w.Write(f.Content)
	return err
}

// Unpacked writes the base image's files below dir, for tests that run runc without containerd.
func (h *Host) Unpacked(dir string) error {
	files, err := h.baseFiles()
	if err != nil {
		return err
	}
	slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range files {
		at := dir + f.Path
		switch {
		case f.Mode.IsDir():
			err = os.MkdirAll(at, f.Mode.Perm())
		case f.Mode&os.ModeSymlink != 0:
			err = os.Symlink(string(f.Content), at)
		default:
			err = os.WriteFile(at, f.Content, f.Mode.Perm())
		}
		if err == nil {
			err = os.Lchown(at, f.UID, f.GID)
		}
		if err == nil && f.Mode&os.ModeSymlink == 0 {
			err = os.Chmod(at, f.Mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
