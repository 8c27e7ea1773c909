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
	"github.com/thinkheads-ai/pve-nvidia-hook/packaging/snippet"
)

// DefaultVolume is the hookscript that enable sets when no storage is named:
// /var/lib/vz/snippets/pve-nvidia-hook, which the package puts on every node.
const DefaultVolume = "local:snippets/" + snippet.Name

// Storage is a section of /etc/pve/storage.cfg.
type Storage struct {
	ID, Type string
	Path     string   // folder; "" for a storage without one
	Snippets string   // folder of its snippets; "" for a storage without one
	Content  []string // enabled content types
	Shared   bool
	Mounted  bool // Path must be a mount point, else the storage is not there
	Disabled bool
	Nodes    []string // the only nodes that have it; none means all
}

// Storages maps storage IDs to storages.
type Storages map[string]Storage

// mounted are the types that Proxmox mounts itself, below /mnt/pve unless a path is given; every node sees the same files.
var mounted = []string{"nfs", "cifs", "cephfs", "glusterfs"}

// ParseStorages reads a storage.cfg of at most 1 MiB. The storage local is
// always there, as in Proxmox.
func ParseStorages(r io.Reader) (Storages, error) {
	raw, err := readBounded(r)
	if err != nil {
		return nil, fmt.Errorf("read storage.cfg: %w", err)
	}
	all := Storages{}
	var s Storage
	dirs := ""
	finish := func() {
		if s.ID == "" {
			return
		}
		if s.Path == "" && slices.Contains(mounted, s.Type) {
			s.Path = "/mnt/pve/" + s.ID
		}
		if slices.Contains(mounted, s.Type) {
			s.Shared, s.Mounted = true, true
		}
		if s.Path != "" {
			s.Snippets = filepath.Join(s.Path, snippetsDir(dirs))
		}
		all[s.ID] = s
	}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		if kind, id, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(kind, " \t") {
			finish()
			s, dirs = Storage{ID: strings.TrimSpace(id), Type: kind}, ""
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch key {
		case "path":
			if strings.HasPrefix(value, "/") {
				s.Path = filepath.Clean(value)
			}
		case "content":
			s.Content = deletions(value)
		case "content-dirs":
			dirs = value
		case "nodes":
			s.Nodes = deletions(value)
		case "shared":
			s.Shared = truth(value)
		case "is_mountpoint":
			s.Mounted = truth(value)
		case "disable":
			s.Disabled = value == "" || truth(value)
		}
	}
	finish()
	if _, ok := all["local"]; !ok {
		all["local"] = Storage{ID: "local", Type: "dir", Path: "/var/lib/vz", Snippets: "/var/lib/vz/snippets"}
	}
	return all, nil
}

// snippetsDir is the folder of snippets below a storage's path, which
// content-dirs may move ("snippets=scripts,iso=images").
func snippetsDir(dirs string) string {
	for item := range strings.SplitSeq(dirs, ",") {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(item), "snippets="); ok && dir != "" {
			return filepath.Clean("/" + dir)
		}
	}
	return "snippets"
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
		return "", hint.Errorf("a hookscript is named STORAGE:snippets/FILE, such as "+DefaultVolume, "%q is no snippet", volume)
	}
	dir, err := s.dir(id)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, file), nil
}

// dir is the folder of a storage's snippets.
func (s Storages) dir(id string) (string, error) {
	found, ok := s[id]
	if !ok {
		return "", hint.Errorf("the storages that can hold snippets are "+s.names(), "there is no storage %q", id)
	}
	if found.Snippets == "" {
		return "", hint.Errorf("the storages that can hold snippets are "+s.names(), "storage %s (%s) cannot hold snippets", id, found.Type)
	}
	if found.Disabled {
		return "", hint.Errorf("enable it, or name another one", "storage %s is disabled", id)
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
func Ours(volume string) bool { return strings.HasSuffix(volume, ":snippets/"+snippet.Name) }

// HTTPProxy returns the http_proxy of etc/pve/datacenter.cfg below root, or ""
// when there is none. Proxmox itself downloads through it.
func HTTPProxy(root string) (string, error) {
	f, err := os.Open(at(root, "etc/pve/datacenter.cfg"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read datacenter.cfg: %w", err)
	}
	defer f.Close()
	raw, err := readBounded(f)
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
