package doctor

import (
	"context"
	"io/fs"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/docker"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// insideFacts are read below the root of a running container. All of it is what
// the container shows: it may be false, and then harms the container only.
type insideFacts struct {
	nodes       []insideNode // what bears the name of a GPU's node
	nodesError  error
	shares      bool // it is to have the shared driver
	setUp       bool // its record tells of that one; in both cases found is what is mounted
	found       driver.Found
	record      *record.Installed
	recordError error
	differs     string // how the files differ from the record
	toolkit     string // why the wanted CUDA toolkit is not there
	orphans     []string
	loader      driver.Loaded // the libcuda that programs get
	loaderError error
	blockers    []driver.Blocker
	free        uint64 // bytes in /usr
	freeError   error
	use         inuse.Use // of the driver, by its processes
	ctk         bool      // NVIDIA's Container Toolkit is there
	staleCDI    []string  // CDI specifications of another driver
	noCgroups   bool      // the toolkit lacks no-cgroups = true
}

type insideNode struct {
	path         string
	mode         fs.FileMode
	major, minor uint32
}

// char reports whether it is a device, as it should be.
func (n insideNode) char() bool { return n.mode&fs.ModeCharDevice != 0 }

// insideLimit ends the look into one container. A file system of its own (FUSE)
// that never answers holds the goroutine that asks it, and nobody else.
const insideLimit = 30 * time.Second

// Most entries of a folder of /dev that are looked at; a host has some hundreds.
const maxDevNames = 10000

func (f *guestFacts) lookInside(ctx context.Context, h hostFacts) {
	ctx, cancel := context.WithTimeout(ctx, insideLimit)
	defer cancel()
	type answer struct {
		facts *insideFacts
		err   error
	}
	done := make(chan answer, 1)
	settings, wanted := f.settings, f.wanted(h)
	shares := settings.Install.Deliver == record.ByShare || f.live.Shared()
	go func() {
		facts, err := lookInto(ctx, settings, h.arch, wanted, shares)
		done <- answer{facts, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		a.err = hint.Errorf("look for a file system in the container that hangs", "it did not answer: %w", context.Cause(ctx))
	}
	f.inside, f.insideError = a.facts, a.err
}

func lookInto(ctx context.Context, s config.Settings, arch string, wanted version.Driver, shares bool) (*insideFacts, error) {
	c, err := lxc.Open(ctx, s.Paths.LXC, s.VMID)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f := &insideFacts{shares: shares}
	f.nodes, f.nodesError = lookNodes(c)
	f.found = driver.Look(c, arch)
	f.record, f.recordError = record.Read(c)
	mounted := share.InContainer(c)
	switch {
	case f.record == nil:
	case f.record.Delivered == record.ByShare:
		shared, _ := share.Mounted(s.Paths.Run)
		f.setUp, f.differs = true, share.Differs(c, f.record, shared, mounted)
	case f.record.Version != "":
		f.differs = driver.Differs(c, f.record, f.record.Capabilities)
	}
	f.toolkit = hook.ToolkitMissing(c, f.record, s, wanted, arch)
	keep := f.found.CUDA // what is in use is no orphan, also where another is wanted
	if keep == "" {
		keep = wanted
	}
	f.orphans = driver.Orphans(c, arch, keep)
	f.blockers = driver.Blockers(c, arch)
	if shares || f.setUp {
		f.found.CUDA, f.found.NVML = mounted, mounted
	}
	if shares {
		f.blockers = driver.SharedBlockers(c, arch)
	}
	f.loader, f.loaderError = driver.LoaderCUDA(c, arch)
	f.free, f.freeError = c.Free("/usr")
	if v := f.found.Version(); v != "" {
		f.use = hook.Use(ctx, c, v)
		f.staleCDI = docker.Stale(c, v)
	}
	f.ctk, f.noCgroups = docker.Present(c), docker.NoCgroupsMissing(c)
	if !c.Alive() {
		return nil, lxc.ErrNotRunning // half of this is of a container that has ended
	}
	return f, nil
}

// nodeName is the name of a GPU's node. It stands in commands that are advised, so
// another name that begins like one is passed over.
var nodeName = lazy.Regexp(`^nvidia[A-Za-z0-9-]*$`)

// lookNodes lists what stands in /dev of the container under the name of a GPU's node.
func lookNodes(c *lxc.Container) ([]insideNode, error) {
	var nodes []insideNode
	for _, dir := range []string{"/dev", "/dev/nvidia-caps"} {
		names, err := c.ReadDir(dir, maxDevNames)
		if err != nil && dir == "/dev" {
			return nil, err
		}
		for _, name := range names {
			if !nodeName().MatchString(name) || len(nodes) >= 1000 {
				continue
			}
			info, err := c.Lstat(path.Join(dir, name))
			if err != nil || info.Mode.IsDir() {
				continue
			}
			nodes = append(nodes, insideNode{path.Join(dir, name), info.Mode, unix.Major(info.Rdev), unix.Minor(info.Rdev)})
		}
	}
	return nodes, nil
}
