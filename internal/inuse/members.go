package inuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A container makes as many cgroups and processes as its limits allow.
const (
	maxGroups  = 20_000
	maxDepth   = 32
	maxMembers = 20_000
)

// member is a process of the container.
type member struct {
	pid   int
	group string // its cgroup, as /proc/PID/cgroup names it
	owner Owner
}

type members struct {
	all     []member
	partial string // why not all were found, in words
}

// membersOf walks the cgroup tree of a container, nearest groups first. A container
// cannot move a process out of it, and cannot name a process of others in it.
func membersOf(ctx context.Context, top string) (members, error) {
	var m members
	mount, err := mountOf(top)
	if err != nil {
		return m, err
	}
	groups := []string{top}
	for i := 0; i < len(groups); i++ {
		if ctx.Err() != nil || len(m.all) == maxMembers {
			m.partial = fmt.Sprintf("only its first %d processes were looked at", len(m.all))
			return m, nil
		}
		group := groups[i]
		pids, err := processesIn(group, maxMembers-len(m.all))
		if err != nil && i == 0 {
			return m, err
		}
		below := strings.TrimPrefix(group, top)
		owner := ownerOf(below)
		for _, pid := range pids {
			m.all = append(m.all, member{pid, "/" + strings.TrimPrefix(strings.TrimPrefix(group, mount), "/"), owner})
		}
		if strings.Count(below, "/") >= maxDepth {
			m.partial = fmt.Sprintf("its cgroups nest deeper than %d", maxDepth)
			continue
		}
		more, err := groupsIn(group, maxGroups-len(groups))
		if err != nil {
			m.partial = "it has too many cgroups"
		}
		groups = append(groups, more...)
	}
	return m, nil
}

// mountOf finds where the cgroup file system that holds dir is mounted. The host's
// /sys/fs/cgroup is no place of the container's: paths in it can be believed.
func mountOf(dir string) (string, error) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir {
		return "", fmt.Errorf("%q is not a clean absolute path", dir)
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if int64(fsys.Type) != unix.CGROUP2_SUPER_MAGIC {
		return "", fmt.Errorf("%s is not a cgroup of version 2", dir)
	}
	for dir != "/" {
		up := path.Dir(dir)
		if err := unix.Statfs(up, &fsys); err != nil || int64(fsys.Type) != unix.CGROUP2_SUPER_MAGIC {
			break
		}
		dir = up
	}
	return dir, nil
}

// processesIn lists the processes of one group. A threaded group lists none
// (EOPNOTSUPP): its processes are listed by the domain that it belongs to.
func processesIn(group string, most int) ([]int, error) {
	f, err := os.Open(path.Join(group, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(most)*8)) // a process id has 7 digits at most
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		// 0 is a process that has no number in our pid namespace.
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 && len(pids) < most {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// groupsIn lists the groups below one, and says by an error that there are more.
func groupsIn(group string, most int) ([]string, error) {
	dir, err := os.Open(group)
	if err != nil {
		return nil, nil // gone meanwhile
	}
	defer dir.Close()
	var groups []string
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if len(groups) >= most {
				return groups, errors.New("more groups")
			}
			groups = append(groups, group+"/"+e.Name())
		}
		if err != nil || len(entries) == 0 {
			return groups, nil
		}
	}
}
