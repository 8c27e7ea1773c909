package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// apply lets Phoenix's values hold for the container of s. Own values stand
// before those of the containers it was cloned from, and these before the root's.
func (p *phoenix) apply(r *resolved) error {
	chain, err := p.chain(r.s.VMID)
	if err != nil {
		return err
	}
	if dir := p.cacheDir(); dir != "" && r.from["cache.dir"].key == nil {
		r.put(set{key: find("cache.dir"), value: dir, origin: "the folder cache beside " + filepath.Dir(p.first().name)})
	}
	if v, where := p.look(chain, func(g guest) string { return g.version }); v != "" {
		r.put(where.set("driver.version", v, "nvidia_driver_version"))
	} else if p.version != "" {
		r.put(p.fromHypervisor("driver.version", p.version, "version"))
	}
	if v, where := p.look(chain, func(g guest) string { return g.repoURL }); v != "" {
		r.put(where.set("cuda.repo_url", v, "nvidia_repo_url"))
	}
	if p.cudaVersion != "" {
		r.put(p.fromHypervisor("cuda.toolkit", p.cudaVersion, "cuda_version"))
	}
	if u := p.runfileURL(chain); u.key != nil {
		r.put(u.before(r.s.Driver.URLs, r.s.Origin("driver.urls")))
	}
	if g, ok := p.guests[r.s.VMID]; ok {
		r.s.Name = g.name
	}
	if v, where := p.look(chain, func(g guest) string { return g.gpus }); v != "" && where.vmid != 0 {
		r.put(where.set("gpus", v, "gpu_assignment"))
	}
	r.want(p.wants(chain, r.s))
	return nil
}

// place is where in phoenix_lxc_configs.json a value stands.
type place struct {
	file  *jsonFile
	vmid  int   // 0: the root
	chain []int // from the container asked for up to vmid
}

func (w place) path(name string) []string {
	if w.vmid == 0 {
		return []string{name}
	}
	return []string{"lxc_configs", strconv.Itoa(w.vmid), name}
}

func (w place) String() string {
	if w.vmid == 0 {
		return w.file.base()
	}
	text := fmt.Sprintf("%s, container %d", w.file.base(), w.vmid)
	for i := len(w.chain) - 2; i >= 0; i-- {
		if i == len(w.chain)-2 {
			text += fmt.Sprintf(" (parent of %d", w.chain[i])
		} else {
			text += fmt.Sprintf(", the parent of %d", w.chain[i])
		}
	}
	if len(w.chain) > 1 {
		text += ")"
	}
	return text
}

func (w place) set(key string, v any, name string) set {
	return set{key: find(key), value: v, origin: w.String(), json: w.file, path: w.path(name)}
}

func (p *phoenix) fromHypervisor(key string, v any, name string) set {
	return set{key: find(key), value: v, origin: p.hypervisor.base(), json: p.hypervisor, path: []string{"nvidia_driver", name}}
}

// look returns the first value along the chain, then the root's.
func (p *phoenix) look(chain []int, value func(guest) string) (string, place) {
	for i, vmid := range chain {
		if v := value(p.guests[vmid]); v != "" {
			return v, place{p.lxc, vmid, chain[:i+1]}
		}
	}
	return value(p.root), place{p.lxc, 0, nil}
}

func (p *phoenix) runfileURL(chain []int) set {
	if v, where := p.look(chain, func(g guest) string { return g.url }); v != "" {
		return where.set("driver.urls", []string{v}, "nvidia_runfile_url")
	}
	if p.url != "" {
		return p.fromHypervisor("driver.urls", []string{p.url}, "runfile_url")
	}
	return set{}
}

// before puts the URLs of s before others that hold so far.
func (s set) before(others []string, origin string) set {
	s.value = append(slices.Clone(s.value.([]string)), others...)
	s.origin += ", then " + origin
	return s
}

// maxClones bounds a chain of clones. All that a file names is looked at for each
// container, and named in the origin of its values: without a bound the work grows
// with the third power of the chain's length.
const maxClones = 64

// chain lists the container and those it was cloned from that the file names.
func (p *phoenix) chain(vmid int) ([]int, error) {
	var chain []int
	for {
		g, ok := p.guests[vmid]
		if !ok {
			return chain, nil
		}
		if at := slices.Index(chain, vmid); at >= 0 {
			words := make([]string, 0, len(chain)+1)
			for _, id := range append(chain[at:], vmid) {
				words = append(words, strconv.Itoa(id))
			}
			last := strconv.Itoa(chain[len(chain)-1])
			return nil, Mistakes{p.lxc.mistake("the containers are cloned from each other: "+strings.Join(words, " -> "),
				"a chain of clones that ends", "lxc_configs", last, "clone_from_ctid")}
		}
		if len(chain) == maxClones { // the same for each: it is said once
			return nil, Mistakes{{File: p.lxc.name, Key: "lxc_configs", What: fmt.Sprintf("more than %d containers are cloned one from the other", maxClones),
				Allowed: fmt.Sprintf("a chain of at most %d clones", maxClones)}}
		}
		chain = append(chain, vmid)
		if g.parent == 0 {
			return chain, nil
		}
		vmid = g.parent
	}
}

// wants says whether Phoenix wants the driver in a container, and where that
// stands; when not, why is who says so.
func (p *phoenix) wants(chain []int, s *Settings) (wanted bool, origin, why string) {
	if p.hypervisor != nil && !p.install {
		return false, p.hypervisor.base(), "nvidia_driver.install is false in " + p.hypervisor.base()
	}
	if p.lxc == nil {
		return true, "", ""
	}
	if len(chain) == 0 {
		return false, p.lxc.base(), fmt.Sprintf("%s does not name container %d", p.lxc.base(), s.VMID)
	}
	for i, vmid := range chain {
		g := p.guests[vmid]
		if g.hasFeatures {
			if slices.Contains(g.features, "nvidia") {
				return true, place{p.lxc, vmid, chain[:i+1]}.String(), ""
			}
			break
		}
	}
	gpus, where := p.look(chain, func(g guest) string { return g.gpus })
	if gpus != "" && gpus != "none" {
		return true, where.String(), ""
	}
	return false, p.lxc.base(), fmt.Sprintf("%s gives container %d neither the feature nvidia nor a GPU", p.lxc.base(), s.VMID)
}

// first is the file that says where Phoenix lives.
func (p *phoenix) first() *jsonFile {
	if p.lxc != nil {
		return p.lxc
	}
	return p.hypervisor
}

// cacheDir is the folder cache beside Phoenix's etc, or "" where its files
// stand in no folder etc of its own.
func (p *phoenix) cacheDir() string {
	etc := filepath.Dir(p.first().name)
	home := filepath.Dir(etc)
	if filepath.Base(etc) != "etc" || home == "/" {
		return ""
	}
	return filepath.Join(home, "cache")
}
