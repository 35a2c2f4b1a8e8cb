package harness

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ProgramsImage is the base image with the programs of others that gateways of tests are: the host's own, as the
// distribution's packages installed them.
const ProgramsImage = "test.local/programs:latest"

// Programs of ProgramsImage.
const (
	Nginx   = "/usr/sbin/nginx"
	HAProxy = "/usr/sbin/haproxy"
	Python  = "/usr/bin/python3"
	Node    = "/usr/bin/node"
)

// Programs describes ProgramsImage.
func (h *Host) Programs() (Image, error) {
	files, err := hostPrograms(filepath.Join(h.Repository, ".cache", "programs"))
	if err != nil {
		return Image{}, fmt.Errorf("the programs that tests run as gateways: %w: run make programs", err)
	}
	for _, name := range []string{"testserver", "testbind"} {
		program, err := h.TestProgram(name)
		if err != nil {
			return Image{}, err
		}
		files = append(files, File{Path: "/usr/local/bin/" + name, Mode: 0o755, Content: program})
	}
	files = append(files, File{Path: "/opt", Mode: os.ModeDir | 0o755}, File{Path: "/opt/hermes", Mode: os.ModeDir | 0o755})
	for path, name := range map[string]string{"/usr/local/bin/envoy": "envoy.py", "/opt/hermes/gateway.py": "hermes.py"} {
		script, err := os.ReadFile(filepath.Join(h.Repository, "integration", "standin", name))
		if err != nil {
			return Image{}, err
		}
		files = append(files, File{Path: path, Mode: 0o755, Content: script})
	}
	files = append(files,
		// So that nothing asks a name server, which the container has not.
		File{Path: "/etc/hosts", Mode: 0o644, Content: []byte("127.0.0.1 localhost\n::1 localhost\n")},
		File{Path: "/etc/nsswitch.conf", Mode: 0o644, Content: []byte("hosts: files\n")},
	)
	return Image{Name: ProgramsImage, Files: files}, nil
}

// hostPrograms gives what the programs need: themselves, their loader and shared libraries, and what their runtimes load
// later. Packages that the host does not have are unpacked below the directory unpacked, whose files come before the host's.
func hostPrograms(unpacked string) ([]File, error) {
	c := closure{roots: []string{unpacked, "/"}, have: map[string]bool{}}
	var err error
	if c.libraries, err = c.sharedLibraries(); err != nil {
		return nil, err
	}
	for _, path := range []string{Nginx, HAProxy, Python, Node} {
		if err := c.add(path); err != nil {
			return nil, err
		}
	}
	interpreter, err := os.Readlink(c.find(Python)) // python3 is a link to the python3.N of the distribution
	if err != nil {
		return nil, err
	}
	if err := c.addTree(filepath.Join("/usr/lib", interpreter), pythonLeaves); err != nil {
		return nil, err
	}
	// Debian's node keeps some of its own modules there.
	if err := c.addTree("/usr/share/nodejs", nil); err != nil {
		return nil, err
	}
	slices.SortFunc(c.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return c.files, nil
}

// pythonLeaves are parts of Python's library that nothing else of it needs, by the beginning of their names.
var pythonLeaves = []string{"config-", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sitecustomize", "test", "tkinter", "turtledemo"}

// closure collects files with all that they need.
type closure struct {
	roots     []string          // where they are looked for, in this order
	libraries map[string]string // paths of shared libraries by name
	have      map[string]bool
	files     []File
}

// find gives where a path of the image is on the host; if it is nowhere, where it would be in the last root.
func (c *closure) find(path string) string {
	var at string
	for _, root := range c.roots {
		if at = filepath.Join(root, path); exists(at) {
			break
		}
	}
	return at
}

// sharedLibraries lists what the host's loader knows, and what it would if the unpacked packages were installed.
func (c *closure) sharedLibraries() (map[string]string, error) {
	out, err := exec.Command("/sbin/ldconfig", "-p").Output()
	if err != nil {
		return nil, fmt.Errorf("ask for the host's shared libraries: ldconfig -p: %w", err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		// "	libz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1"
		name, path, ok := strings.Cut(strings.TrimSpace(line), " => ")
		name, _, _ = strings.Cut(name, " ")
		if ok && found[name] == "" { // the first is the loader's choice
			found[name] = path
		}
	}
	for _, pattern := range []string{"/usr/lib/*.so.*", "/usr/lib/*-linux-gnu/*.so.*"} {
		unpacked, err := filepath.Glob(filepath.Join(c.roots[0], pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range unpacked {
			found[filepath.Base(path)] = strings.TrimPrefix(path, c.roots[0])
		}
	}
	return found, nil
}

// add takes what is at path, with the directories and links on the way to it.
func (c *closure) add(path string) error {
	at := "/"
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, part := range parts {
		at = filepath.Join(at, part)
		file := File{Path: at}
		info, err := os.Lstat(c.find(at))
		if err != nil {
			return err
		}
		file.Mode, file.ModTime = info.Mode()&(os.ModeType|os.ModePerm), info.ModTime()
		if file.Mode&os.ModeSymlink != 0 {
			target, err := os.Readlink(c.find(at))
			if err != nil {
				return err
			}
			file.Content = []byte(target)
			c.put(file)
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			return c.add(filepath.Join(append([]string{target}, parts[i+1:]...)...))
		}
		switch {
		case c.have[at]:
		case file.Mode.IsRegular():
			if file.Content, err = os.ReadFile(c.find(at)); err != nil {
				return err
			}
			c.put(file)
			if err := c.addNeeded(at); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		case file.Mode.IsDir():
			c.put(file)
		default:
			return fmt.Errorf("%s is neither file, directory nor link", at)
		}
	}
	return nil
}

func (c *closure) put(file File) {
	if !c.have[file.Path] {
		c.have[file.Path] = true
		c.files = append(c.files, file)
	}
}

// addNeeded takes the loader and the libraries that an ELF file names. Another file needs none.
func (c *closure) addNeeded(path string) error {
	f, err := elf.Open(c.find(path))
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return err
		}
		if err := c.add(strings.TrimRight(string(loader), "\x00")); err != nil {
			return err
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range names {
		at := c.libraries[name]
		if at == "" {
			return fmt.Errorf("its library %s is not among those that ldconfig -p lists", name)
		}
		if err := c.add(at); err != nil {
			return err
		}
	}
	return nil
}

// addTree takes all below a directory, in every root that has it, but for entries directly in it whose names begin so.
func (c *closure) addTree(dir string, except []string) error {
	for _, root := range c.roots {
		top := filepath.Join(root, dir)
		if !exists(top) {
			continue
		}
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			leaf := func(prefix string) bool { return strings.HasPrefix(entry.Name(), prefix) }
			if filepath.Dir(path) == top && slices.ContainsFunc(except, leaf) {
				if entry.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			return c.add(filepath.Join(dir, strings.TrimPrefix(path, top)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
