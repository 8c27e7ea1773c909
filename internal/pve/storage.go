package pve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// DefaultVolume is the hookscript that enable sets when no storage is named:
// /var/lib/vz/snippets/pve-nvidia-hook, which the package puts on every node.
const DefaultVolume = "local:snippets/" + snippet.Name

// Storage is a section of /etc/pve/storage.cfg.
type Storage struct {
	ID, Type string
	Path     string // folder; "" for a storage without one
	Snippets string // folder of its snippets; "" for a storage without one
	Shared   bool
	Mounted  string // a folder that must be a mount point, else the storage is not there; "" for none
	Disabled bool
	Nodes    []string // the only nodes that have it; none means all
}

// Storages maps storage IDs to storages.
type Storages map[string]Storage

// network are the types that Proxmox mounts itself, below /mnt/pve unless a path is
// given; every node sees the same files.
var network = []string{"nfs", "cifs", "cephfs", "glusterfs"}

// local is the storage that is the same on every node: Proxmox takes it so
// whatever storage.cfg says of it.
var local = Storage{ID: "local", Type: "dir", Path: "/var/lib/vz", Snippets: "/var/lib/vz/snippets"}

// The lines of storage.cfg, as Proxmox's own parser (SectionConfig) takes them.
var (
	storageLine  = lazy.Regexp(`^(\S+):\s*(\S+)\s*$`)
	propertyLine = lazy.Regexp(`^\s+(\S+)(?:\s+(.*\S))?\s*$`)
)

// ParseStorages reads a storage.cfg of at most 1 MiB. A section ends at an
// empty line, of a property that stands twice the first counts, and the storage
// local is always there, as in Proxmox.
func ParseStorages(r io.Reader) (Storages, error) {
	raw, err := readBounded(r)
	if err != nil {
		return nil, fmt.Errorf("read storage.cfg: %w", err)
	}
	all := Storages{}
	id, kind := "", ""
	var properties map[string]string
	finish := func() {
		if id != "" {
			all[id] = newStorage(id, kind, properties)
		}
		id = ""
	}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if line == "" {
			finish()
		} else if id == "" {
			if m := storageLine().FindStringSubmatch(line); m != nil {
				kind, id, properties = strings.ToLower(m[1]), m[2], map[string]string{}
			}
		} else if m := propertyLine().FindStringSubmatch(line); m != nil {
			if _, twice := properties[m[1]]; !twice {
				properties[m[1]] = m[2]
			}
		}
	}
	finish()
	if s, ok := all["local"]; !ok || s.Type != "dir" || s.Path != local.Path {
		all["local"] = local
	} else {
		s.Nodes = nil
		all["local"] = s
	}
	return all, nil
}

func newStorage(id, kind string, properties map[string]string) Storage {
	s := Storage{ID: id, Type: kind}
	if nodes, there := properties["nodes"]; there {
		s.Nodes = splitList(nodes)
	}
	flag := func(name string) bool { // without a value it is set
		value, there := properties[name]
		return there && (value == "" || truth(value))
	}
	s.Shared, s.Disabled = flag("shared"), flag("disable")
	if path := properties["path"]; strings.HasPrefix(path, "/") {
		s.Path = filepath.Clean(path)
	} else if id == local.ID {
		s.Path = local.Path
	}
	if slices.Contains(network, kind) {
		s.Shared = true
		if s.Path == "" {
			s.Path = "/mnt/pve/" + id
		}
		s.Mounted = s.Path
	} else if mount := properties["is_mountpoint"]; truth(mount) {
		s.Mounted = s.Path
	} else if strings.HasPrefix(mount, "/") {
		s.Mounted = filepath.Clean(mount)
	}
	if s.Path != "" {
		s.Snippets = filepath.Join(s.Path, snippetsDir(properties["content-dirs"]))
	}
	return s
}

// Late reports whether nothing but Proxmox mounts the storage. It does so when
// it first uses the storage, but not for a hookscript (check_hookscript does not
// activate it), so that after a boot the file may not be there yet. A storage
// with a line in etc/fstab below root is not late.
func (s Storage) Late(root string) bool {
	if !slices.Contains(network, s.Type) {
		return false
	}
	raw, _ := os.ReadFile(at(root, "etc/fstab"))
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[0], "#") && filepath.Clean(f[1]) == s.Path {
			return false
		}
	}
	return true
}

// snippetsDir is the folder of snippets below a storage's path, which
// content-dirs may move ("snippets=scripts,iso=images").
func snippetsDir(dirs string) string {
	found := "snippets"
	for _, item := range splitList(dirs) {
		if dir, ok := strings.CutPrefix(item, "snippets="); ok && dir != "" {
			found = filepath.Clean("/" + dir)
		}
	}
	return found
}

// ReadStorages reads etc/pve/storage.cfg below root; a missing file means the storage local alone.
func ReadStorages(root string) (Storages, error) {
	f, err := os.Open(at(root, "etc/pve/storage.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return ParseStorages(strings.NewReader(""))
	}
	if err != nil {
		return nil, fmt.Errorf("read storage.cfg: %w", err)
	}
	defer f.Close()
	return ParseStorages(f)
}

// Path returns the file of a snippet volume such as local:snippets/NAME, as it
// is on the node (root not included).
func (s Storages) Path(volume string) (string, error) {
	id, name, ok := strings.Cut(volume, ":")
	file, inSnippets := strings.CutPrefix(name, "snippets/")
	if !ok || !inSnippets || file == "" || file == "." || file == ".." || strings.Contains(file, "/") {
		return "", hint.Errorf("a hookscript is named STORAGE:snippets/FILE, such as "+DefaultVolume, "%q is not a snippet", volume)
	}
	dir, err := s.dir(id)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, file), nil
}

// dir is the folder of a storage's snippets. A storage that is disabled has it
// too: Proxmox asks for hookscripts by the path alone, and the installer's
// storage.cfg for a BTRFS root disables local.
func (s Storages) dir(id string) (string, error) {
	found, ok := s[id]
	if !ok {
		return "", hint.Errorf("the storages that can hold snippets are "+s.names(), "there is no storage %q", id)
	}
	if found.Snippets == "" {
		return "", hint.Errorf("the storages that can hold snippets are "+s.names(), "storage %s (%s) cannot hold snippets", id, found.Type)
	}
	return found.Snippets, nil
}

func (s Storages) names() string {
	var ids []string
	for _, id := range sortedKeys(s) {
		if s[id].Snippets != "" && !s[id].Disabled {
			ids = append(ids, id)
		}
	}
	return strings.Join(ids, ", ")
}

// Ours reports whether a hookscript volume is this program's, on whatever storage.
func Ours(volume string) bool {
	return strings.HasSuffix(volume, ":snippets/"+snippet.Name) || ChainOf(volume) != ""
}

// ChainOf is the hookscript volume that one of this program's has run after it, or "".
func ChainOf(volume string) string {
	id, name, ok := strings.Cut(volume, ":snippets/")
	if other := snippet.Chained(name); ok && other != "" && !strings.Contains(name, "/") {
		return id + ":snippets/" + other
	}
	return ""
}

// chaining is this program's hookscript volume that has another one run after it.
func chaining(other string) string {
	id, name, _ := strings.Cut(other, ":snippets/")
	return id + ":snippets/" + snippet.Chaining(name)
}

// HTTPProxy returns the http_proxy of etc/pve/datacenter.cfg below root, or ""
// when there is none. Proxmox itself downloads through it.
func HTTPProxy(root string) (string, error) {
	raw, err := readConfig(at(root, "etc/pve/datacenter.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read datacenter.cfg: %w", err)
	}
	proxy := ""
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "http_proxy:"); ok {
			proxy = strings.TrimSpace(value)
		}
	}
	return proxy, nil
}

func sortedKeys[K interface{ ~int | ~string }, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
