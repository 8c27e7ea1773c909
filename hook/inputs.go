package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// digest stands for all that a failure depends on: while it stays the same, another
// try fails in the same way.
func (w *work) digest(f Facts) string {
	s := w.Settings.Redacted()
	data, err := json.Marshal(struct {
		Program   string
		Driver    any
		Install   any
		CUDA      any
		Cache     string
		Host      HostFacts
		Container ContainerFacts
		Around    []string
	}{version.Program, s.Driver, s.Install, s.CUDA, s.Cache.Dir, f.Host, f.Container, w.around(f)})
	if err != nil {
		return "" // cannot be: all of it is plain data
	}
	return shortSum(data)
}

func shortSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// around lists what people change to mend a failure: Proxmox's configuration of the
// container (devices, disk, memory), a run file put into the cache by hand, the
// node's network, and in the container the device nodes, the packages, where
// packages come from, and the free room.
func (w *work) around(f Facts) []string {
	var found []string
	add := func(what string, value any) { found = append(found, fmt.Sprint(what, " ", value)) }
	// By content, since Proxmox VE writes the file again at each stop.
	for _, name := range []string{fmt.Sprintf("etc/pve/lxc/%d.conf", w.Settings.VMID), "etc/resolv.conf", "proc/net/route"} {
		if text, err := host.ReadSmall(w.host.Path(name)); err == nil {
			add(name, shortSum([]byte(text)))
		}
	}
	if wanted, refused := wantedVersion(w.Settings, f.Host); refused == nil {
		file := filepath.Join(w.Settings.Cache.Dir, cache.FileName(wanted, f.Host.Arch))
		if info, err := os.Stat(file); err == nil {
			add(file, fmt.Sprint(info.Size(), " ", info.ModTime().UnixNano()))
		}
	}
	names, _ := w.container.ReadDir("/dev", 10000) // a container without /dev has no GPU either
	for _, name := range names {
		if strings.HasPrefix(name, "nvidia") {
			add("node", name)
		}
	}
	for _, name := range []string{
		"/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db", "/var/lib/pacman/local",
		"/etc/resolv.conf", "/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/yum.repos.d", "/etc/zypp/repos.d",
	} {
		if info, err := w.container.Lstat(name); err == nil {
			add(name, fmt.Sprint(info.Size, " ", info.Time))
		}
	}
	// In steps of powers of two: what others write meanwhile is no change.
	if free, err := w.container.Free("/usr"); err == nil {
		add("room", bits.Len64(uint64(free)>>26)) // 64 MiB
	}
	return found
}
