// Package phoenix reads what the two JSON files of a Phoenix hypervisor say of
// NVIDIA: phoenix_lxc_configs.json and phoenix_hypervisor_config.json. Their many
// other keys belong to Phoenix and are passed over.
package phoenix

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Phoenix is what the files say that were read.
type Phoenix struct {
	lxc, hypervisor *file             // nil when not read
	root            guest             // the keys at the top of phoenix_lxc_configs.json
	guests          map[int]guest     // by VMID
	values          map[string]string // of phoenix_hypervisor_config.json, by setting
	off             bool              // Phoenix wants no driver anywhere
}

// guest is one container of phoenix_lxc_configs.json.
type guest struct {
	name     string
	values   map[string]string // by setting, without those that it lacks
	features []string          // nil when it has no such key
	parent   int               // clone_from_ctid, 0 for none
}

// Value is what Phoenix says of one setting.
type Value struct {
	Setting string // the setting's full name, such as driver.version
	Text    string
	Origin  string // for people: "phoenix_lxc_configs.json, container 900 (parent of 901)"
	file    *file
	path    []string // of the key in the file
}

// Problem reports that something is wrong with the value, at its place.
func (v Value) Problem(what, allowed string) Problem { return v.file.problem(what, allowed, v.path...) }

// Guest is what holds for one container.
type Guest struct {
	Name   string
	Values []Value
	Wanted bool   // it gets the driver
	Origin string // who says so; "" when nobody does
	Why    string // when it is not wanted: who says so, in words
}

// settings are those that Phoenix may say something of.
var settings = []string{"driver.version", "driver.urls", "cuda.repo_url", "cuda.toolkit", "gpus"}

// For returns what holds for a container. Its own values override those of the
// containers it was cloned from, these the ones at the top of the file, and these
// phoenix_hypervisor_config.json.
func (p *Phoenix) For(vmid int) (Guest, *Problem) {
	chain, wrong := p.chain(vmid)
	if wrong != nil {
		return Guest{}, wrong
	}
	g := Guest{Name: p.guests[vmid].name}
	for _, setting := range settings {
		if v, ok := p.look(chain, setting); ok {
			g.Values = append(g.Values, v)
		}
	}
	g.Wanted, g.Origin, g.Why = p.wants(vmid, chain)
	return g, nil
}

// Containers lists the VMIDs that the files name, in no order.
func (p *Phoenix) Containers() []int {
	var all []int
	for id := range p.guests {
		all = append(all, id)
	}
	return all
}

// look returns the first value of a setting along the chain.
func (p *Phoenix) look(chain []int, setting string) (Value, bool) {
	for i, vmid := range chain {
		if v := p.guests[vmid].values[setting]; v != "" {
			return Value{setting, v, p.origin(chain[:i+1]), p.lxc, []string{"lxc_configs", strconv.Itoa(vmid), keyOf(guestKeys, setting)}}, true
		}
	}
	if v := p.root.values[setting]; v != "" {
		return Value{setting, v, p.lxc.base(), p.lxc, []string{keyOf(guestKeys, setting)}}, true
	}
	if v := p.values[setting]; v != "" {
		return Value{setting, v, p.hypervisor.base(), p.hypervisor, []string{"nvidia_driver", keyOf(hypervisorKeys, setting)}}, true
	}
	return Value{}, false
}

// origin names the last container of a chain, and how those before it come from it.
func (p *Phoenix) origin(chain []int) string {
	last := len(chain) - 1
	text := fmt.Sprintf("%s, container %d", p.lxc.base(), chain[last])
	if last == 0 {
		return text
	}
	var children []string
	for _, vmid := range slices.Backward(chain[:last]) {
		children = append(children, fmt.Sprintf("parent of %d", vmid))
	}
	return text + " (" + strings.Join(children, ", the ") + ")"
}

// maxClones bounds a chain of clones. All that a file names is looked at for each
// container, and named in the origin of its values: without a bound the work grows
// with the third power of the chain's length.
const maxClones = 64

// chain lists the container and those it was cloned from that the file names.
func (p *Phoenix) chain(vmid int) ([]int, *Problem) {
	var chain []int
	for {
		g, ok := p.guests[vmid]
		if !ok {
			return chain, nil
		}
		if at := slices.Index(chain, vmid); at >= 0 {
			var words []string
			for _, id := range append(chain[at:], vmid) {
				words = append(words, strconv.Itoa(id))
			}
			wrong := p.lxc.problem("the containers are cloned from each other: "+strings.Join(words, " -> "),
				"a chain of clones that ends", "lxc_configs", words[len(words)-2], "clone_from_ctid")
			return nil, &wrong
		}
		if len(chain) == maxClones { // the same for each: it is said once
			return nil, &Problem{File: p.lxc.name, Key: "lxc_configs", What: fmt.Sprintf("more than %d containers are cloned one from the other", maxClones),
				Allowed: fmt.Sprintf("a chain of at most %d clones", maxClones)}
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
func (p *Phoenix) wants(vmid int, chain []int) (wanted bool, origin, why string) {
	if p.off {
		return false, p.hypervisor.base(), "nvidia_driver.install is false in " + p.hypervisor.base()
	}
	if p.lxc == nil {
		return true, "", ""
	}
	if len(chain) == 0 {
		return false, p.lxc.base(), fmt.Sprintf("%s does not name container %d", p.lxc.base(), vmid)
	}
	for i, id := range chain {
		if features := p.guests[id].features; features != nil {
			if slices.Contains(features, "nvidia") {
				return true, p.origin(chain[:i+1]), ""
			}
			break
		}
	}
	if gpus, ok := p.look(chain, "gpus"); ok && gpus.Text != "none" {
		return true, gpus.Origin, ""
	}
	return false, p.lxc.base(), fmt.Sprintf("%s gives container %d neither the feature nvidia nor a GPU", p.lxc.base(), vmid)
}

// CacheDir is the folder cache beside Phoenix's etc, with where that is taken from,
// or "" where its files stand in no folder etc of its own.
func (p *Phoenix) CacheDir() (dir, origin string) {
	f := p.lxc
	if f == nil {
		f = p.hypervisor
	}
	etc := filepath.Dir(f.name)
	home := filepath.Dir(etc)
	if filepath.Base(etc) != "etc" || home == "/" {
		return "", ""
	}
	return filepath.Join(home, "cache"), "the folder cache beside " + etc
}
