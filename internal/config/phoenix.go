package config

import (
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/phoenix"
)

// loadPhoenix reads the files of Phoenix that our own files name.
func (c *Config) loadPhoenix(all *Mistakes) {
	var p phoenix.Phoenix
	load := func(key string, read func(name string, data []byte, check phoenix.Check) []phoenix.Problem) {
		named := last(key, c.cluster.global, c.node.global)
		if named.key == nil || named.value == "" {
			return
		}
		c.phoenix = &p
		name := named.value.(string)
		data, err := readFile(name)
		if err != nil {
			*all = append(*all, Mistake{named.file, named.line, key, name + ": " + err.Error(), ""})
			return
		}
		for _, wrong := range read(name, data, checkPhoenix) {
			*all = append(*all, Mistake(wrong))
		}
	}
	load("phoenix.lxc_configs", p.ReadLXCConfigs)
	load("phoenix.hypervisor_config", p.ReadHypervisorConfig)
}

// checkPhoenix checks what Phoenix says of a setting. It names a version where
// our own files may say "host", and one URL where they have a list.
func checkPhoenix(setting, text string) (normal, wrong, allowed string) {
	check := str(func(s string) (string, string) { return s, "" })
	switch setting {
	case "":
		allowed = "a string"
	case "driver.version":
		allowed = `a driver version such as "580.76.05"`
		check = str(checkVersion)
		if text == "host" {
			return "", `"host" is not a driver version`, allowed
		}
	case "driver.urls":
		allowed = "the https URL of a run file (http only with a pinned sha256)"
		check = str(checkURL)
	default:
		k := find(setting)
		allowed, check = k.allowed, k.check
	}
	v, wrong := check(text)
	if wrong == "" {
		normal = v.(string)
	}
	return normal, wrong, allowed
}

// applyPhoenix lets Phoenix's values hold for the container of r.
func (c *Config) applyPhoenix(r *resolved) error {
	g, wrong := c.phoenix.For(r.s.VMID)
	if wrong != nil {
		return Mistakes{Mistake(*wrong)}
	}
	if dir, origin := c.phoenix.CacheDir(); dir != "" && r.from["cache.dir"].key == nil {
		r.put(set{key: find("cache.dir"), value: dir, origin: origin})
	}
	for _, v := range g.Values {
		s := set{key: find(v.Setting), value: v.Text, origin: v.Origin, phoenix: &v}
		if v.Setting == "driver.urls" { // tried before those that hold so far
			s.value = slices.Concat([]string{v.Text}, r.s.Driver.URLs)
			s.origin += ", then " + r.s.Origin("driver.urls")
		}
		r.put(s)
	}
	r.s.Name = g.Name
	if g.Origin != "" {
		r.put(set{key: find("enabled"), value: g.Wanted, origin: g.Origin})
	}
	r.s.WhyNot = g.Why
	return nil
}
