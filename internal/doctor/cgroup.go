package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroups finds out which hierarchy is mounted at root and whether the controllers are there that container runtimes
// and pausing need.
func cgroups(root string) []Finding {
	f := Finding{Area: "cgroup", Name: "hierarchy", Level: OK}
	var controllers []string
	switch {
	case isFilesystem(root, unix.CGROUP2_SUPER_MAGIC):
		f.Detail = "v2 at " + root
		// The freezer of v2 is part of every group (cgroup.freeze, Linux 5.2), not a controller.
		controllers = append(unified(root), "freezer")
	case isFilesystem(filepath.Join(root, "unified"), unix.CGROUP2_SUPER_MAGIC):
		f.Detail = "hybrid at " + root + ": v1 controllers, v2 at " + root + "/unified"
		controllers = append(legacy(root), unified(filepath.Join(root, "unified"))...)
	default:
		controllers = legacy(root)
		f.Detail = "v1 at " + root
	}
	if len(controllers) == 0 {
		f.Level, f.Detail = Fail, "no cgroups are mounted at "+root
		f.Remedy = "mount -t cgroup2 none " + root
		return []Finding{f}
	}
	all := []Finding{f}
	for _, name := range []string{"pids", "memory", "freezer"} {
		c := Finding{Area: "cgroup", Name: name, Level: OK, Detail: "there"}
		if !slices.Contains(controllers, name) {
			c.Level, c.Detail = Warn, "this controller is missing"
			c.Remedy = "boot without cgroup_disable=" + name + ", and on some boards with cgroup_enable=" + name
			if name == "freezer" {
				c.Detail += ": containers cannot be paused"
			} else {
				c.Detail += ": a workload cannot be kept from starving its gateway of it"
			}
		}
		all = append(all, c)
	}
	return all
}

func unified(dir string) []string {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// legacy lists the v1 controllers mounted below root, under their own names.
func legacy(root string) []string {
	var names []string
	for _, name := range []string{"pids", "memory", "freezer"} {
		if isFilesystem(filepath.Join(root, name), unix.CGROUP_SUPER_MAGIC) {
			names = append(names, name)
		}
	}
	return names
}

func isFilesystem(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == magic
}
