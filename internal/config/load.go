package config

import (
	"cmp"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/phoenix"
)

// Config is all that the files of this node say.
type Config struct {
	cluster, node tomlFile
	phoenix       *phoenix.Phoenix // nil when no file of Phoenix is named
	named         string           // the file that the user named; "" for the default one
	docker        func(state string, vmid int) bool
}

// Options say where the files stand.
type Options struct {
	Cluster  string // "": /etc/pve/pve-nvidia-hook.toml below HostRoot
	HostRoot string // "" is /
	Named    bool   // file was named by the user: it must exist
	// Docker tells whether enable --docker holds for a container, by what is kept in
	// the state folder; nil: it never does.
	Docker func(state string, vmid int) bool
}

// Load reads the cluster file, Phoenix's files and file ("" is DefaultFile).
// A missing file is no error unless the user named it. The error is Mistakes
// and names every mistake of every file, one a line, but for those that show
// only in what holds for one container in the end: For and Check find these.
func Load(file string, o Options) (*Config, error) {
	if file == "" {
		file = DefaultFile
	}
	if o.Cluster == "" {
		o.Cluster = filepath.Join(cmp.Or(o.HostRoot, "/"), DefaultCluster)
	}
	c := &Config{docker: o.Docker}
	if o.Named {
		c.named = file
	}
	var all Mistakes
	c.cluster = loadTOML(o.Cluster, false, &all)
	c.node = loadTOML(file, o.Named, &all)
	c.loadPhoenix(&all)
	if err := all.err(c.named); err != nil {
		return nil, err
	}
	return c, nil
}

func loadTOML(name string, must bool, all *Mistakes) tomlFile {
	data, err := readFile(name)
	if errors.Is(err, errMissing) && !must {
		return tomlFile{}
	}
	if err != nil {
		*all = append(*all, Mistake{File: name, What: err.Error()})
		return tomlFile{}
	}
	f, err := parseTOML(name, data)
	all.add(err)
	return f
}

// last returns what the last of the layers that names a key says of it.
func last(name string, layers ...[]set) set {
	var found set
	for _, layer := range layers {
		for _, s := range layer {
			if s.key.name == name {
				found = s
			}
		}
	}
	return found
}

// ByEnable is the origin of what enable has noted for a container. Every file wins
// over it.
const ByEnable = "enable --docker"

// For returns the settings of a container. An error is a mistake of that
// container's settings only. A VMID that no file names has what holds for the
// node; For(0) returns just that.
func (c *Config) For(vmid int) (Settings, error) {
	s := defaults(vmid)
	r := resolved{s: &s}
	r.putAll(c.cluster.global)
	var err error
	if c.phoenix != nil {
		err = c.applyPhoenix(&r)
	}
	r.putAll(c.node.global)
	r.putAll(c.cluster.containers[vmid])
	r.putAll(c.node.containers[vmid])
	if r.from["docker.toolkit"].key == nil && vmid != 0 && c.docker != nil && c.docker(s.Paths.State, vmid) {
		r.put(set{key: find("docker.toolkit"), value: true, origin: ByEnable})
	}
	if s.Wanted && err == nil {
		err = r.check()
	} else if !s.Wanted && r.from["enabled"].file != "" {
		err = nil // switched off by hand: nothing else matters
	}
	var m Mistakes
	m.add(err)
	return s, m.err(c.named)
}

// Containers lists every VMID that a file names, sorted.
func (c *Config) Containers() []int {
	ids := map[int]bool{}
	for id := range c.cluster.containers {
		ids[id] = true
	}
	for id := range c.node.containers {
		ids[id] = true
	}
	if c.phoenix != nil {
		for _, id := range c.phoenix.Containers() {
			ids[id] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// Check looks for the mistakes that For would find, in the settings of the
// node and of every container that a file names, and reports them at once.
func (c *Config) Check() error {
	var all Mistakes
	for _, vmid := range append([]int{0}, c.Containers()...) {
		_, err := c.For(vmid)
		all.add(err)
	}
	return all.err(c.named)
}
