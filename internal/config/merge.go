package config

import (
	"fmt"
	"strings"
)

// resolved are the settings of a container while the files are laid over each other.
type resolved struct {
	s    *Settings
	from map[string]set // the set that holds, by key
}

func (r *resolved) putAll(layer []set) {
	for _, s := range layer {
		r.put(s)
	}
}

// put lets a value hold until a later one comes.
func (r *resolved) put(s set) {
	if r.from == nil {
		r.from = map[string]set{}
		r.s.origins = map[string]string{}
	}
	s.key.store(r.s, s.value)
	r.from[s.key.name] = s
	r.s.origins[s.key.name] = s.origin
	if s.key.name == "enabled" {
		r.s.WhyNot = ""
		if !r.s.Wanted {
			r.s.WhyNot = "enabled is false in " + s.origin
		}
	}
}

// check finds what is wrong with values that are good each by itself.
func (r *resolved) check() error {
	var m Mistakes
	urls := r.from["driver.urls"]
	version := r.s.Driver.Version
	for i, u := range r.s.Driver.URLs {
		if strings.HasPrefix(u, "http:") && r.s.Driver.SHA256 == "" {
			m = append(m, urls.mistake(quote(u)+" is not https, and no sha256 is pinned", "https, or http with driver.sha256"))
		}
		carried := fileVersion(u)
		if carried == "" || carried == version {
			continue
		}
		if version != "host" {
			m = append(m, urls.mistake(fmt.Sprintf("%s is version %s, but version %s is wanted (%s)", quote(u), carried, version, r.s.Origin("driver.version")),
				"the URL of version "+version+", or a template with {version}"))
		} else if urls.phoenix != nil && i == 0 {
			// Phoenix's URL is for the version that Phoenix names. The host's may be another:
			// the same place may have that one, and the wrong one is never fetched.
			r.s.Driver.URLs[i] = follow(u, carried)
		}
	}
	return m.plain()
}

// mistake reports a value at the place it comes from.
func (s set) mistake(what, allowed string) Mistake {
	if s.phoenix != nil {
		return Mistake(s.phoenix.Problem(what, allowed))
	}
	return Mistake{s.file, s.line, s.key.name, what, allowed}
}
