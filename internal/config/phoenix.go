package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// phoenix is what the two JSON files of Phoenix say of NVIDIA. Their many
// other keys belong to Phoenix and are passed over.
type phoenix struct {
	lxc, hypervisor *jsonFile // nil when not named
	root            guest     // nvidia_* keys at the top of phoenix_lxc_configs.json
	guests          map[int]guest

	install     bool   // false: Phoenix wants no driver anywhere
	version     string // nvidia_driver of phoenix_hypervisor_config.json
	url         string
	cudaVersion string
}

// guest is one container of phoenix_lxc_configs.json; "" is what it lacks.
type guest struct {
	name        string
	gpus        string
	features    []string
	hasFeatures bool
	version     string
	url         string
	repoURL     string
	parent      int // clone_from_ctid, 0 for none
}

// jsonFile is kept for the lines of mistakes that show later.
type jsonFile struct {
	name string
	data []byte
}

func (f *jsonFile) base() string { return filepath.Base(f.name) }

func parseLXCConfigs(p *phoenix, f *jsonFile) error {
	p.lxc = f
	r := jsonReader{file: f}
	top := r.open()
	p.root = r.values(top)
	p.guests = map[int]guest{}
	list := r.object(top, "lxc_configs", "lxc_configs")
	for id := range list {
		at := []string{"lxc_configs", id}
		number, err := vmid.Parse(id)
		if err != nil {
			r.wrong("is not a valid VMID", "a VMID of 100 or more", at...)
			continue
		}
		o := r.object(list, id, at...)
		g := r.values(o, at...)
		g.name = r.text(o, "name", nil, at...)
		g.gpus = r.text(o, "gpu_assignment", find("gpus"), at...)
		g.features, g.hasFeatures = r.list(o, "features", at...)
		g.parent = r.vmid(o, "clone_from_ctid", at...)
		p.guests[number] = g
	}
	return r.mistakes.plain()
}

func parseHypervisorConfig(p *phoenix, f *jsonFile) error {
	p.hypervisor = f
	r := jsonReader{file: f}
	o := r.object(r.open(), "nvidia_driver", "nvidia_driver")
	at := "nvidia_driver"
	switch v := o["install"].(type) {
	case bool:
		p.install = v
	case nil:
	default:
		r.wrong("must be true or false, is "+typeName(v), "true or false", at, "install")
	}
	p.version = r.text(o, "version", phoenixVersion(), at)
	p.url = r.text(o, "runfile_url", phoenixURL(), at)
	p.cudaVersion = r.text(o, "cuda_version", find("cuda.toolkit"), at)
	return r.mistakes.plain()
}

// phoenixVersion: "host" is a word of our own files, Phoenix names a version.
func phoenixVersion() *key {
	return &key{allowed: `a driver version such as "580.76.05"`, check: str(func(s string) (string, string) {
		if s == "host" {
			return "", `"host" is not a driver version`
		}
		return checkVersion(s)
	})}
}

func phoenixURL() *key {
	k := *find("driver.urls")
	k.allowed = "the https URL of a run file (http only with a pinned sha256)"
	k.check = str(checkURL)
	return &k
}

// values reads the nvidia_* keys that the root and each container may have.
func (r *jsonReader) values(o map[string]any, at ...string) guest {
	return guest{
		version: r.text(o, "nvidia_driver_version", phoenixVersion(), at...),
		url:     r.text(o, "nvidia_runfile_url", phoenixURL(), at...),
		repoURL: r.text(o, "nvidia_repo_url", find("cuda.repo_url"), at...),
	}
}

// jsonReader takes known keys out of decoded JSON and collects what is wrong with them.
type jsonReader struct {
	file     *jsonFile
	mistakes Mistakes
}

func (r *jsonReader) open() map[string]any {
	var v any
	if err := json.Unmarshal(r.file.data, &v); err != nil {
		m := Mistake{File: r.file.name, What: "JSON syntax: " + strings.TrimPrefix(err.Error(), "json: ")}
		var at *json.SyntaxError
		if errors.As(err, &at) {
			m.Line = lineAt(r.file.data, at.Offset-1)
		}
		r.mistakes = append(r.mistakes, m)
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		r.mistakes = append(r.mistakes, Mistake{r.file.name, 1, "", "must be an object, is " + jsonType(v), "{ ... }"})
	}
	return o
}

func (r *jsonReader) wrong(what, allowed string, at ...string) {
	r.mistakes = append(r.mistakes, r.file.mistake(what, allowed, at...))
}

// mistake names the place of a key by the path that leads to it.
func (f *jsonFile) mistake(what, allowed string, at ...string) Mistake {
	return Mistake{f.name, f.line(at), strings.Join(at, "."), what, allowed}
}

func (r *jsonReader) object(in map[string]any, name string, at ...string) map[string]any {
	v := in[name]
	o, ok := v.(map[string]any)
	if !ok && v != nil {
		r.wrong("must be an object, is "+jsonType(v), "{ ... }", at...)
	}
	return o
}

// text reads a string; a key that is missing, null or "" is lacking. k, when
// not nil, checks it and says what is allowed.
func (r *jsonReader) text(o map[string]any, name string, k *key, at ...string) string {
	if o[name] == nil {
		return ""
	}
	at = append(at[:len(at):len(at)], name)
	s, ok := o[name].(string)
	if k == nil {
		k = &key{allowed: "a string", check: str(func(s string) (string, string) { return s, "" })}
	}
	switch {
	case !ok:
		r.wrong("must be a string, is "+jsonType(o[name]), k.allowed, at...)
		return ""
	case s == "":
		return ""
	}
	v, wrong := k.check(s)
	if wrong != "" {
		r.wrong(wrong, k.allowed, at...)
		return ""
	}
	return v.(string)
}

func (r *jsonReader) list(o map[string]any, name string, at ...string) ([]string, bool) {
	if o[name] == nil {
		return nil, false
	}
	v, wrong := convert(new([]string), o[name])
	if wrong != "" {
		r.wrong(wrong, `a list of strings such as ["nvidia"]`, append(at[:len(at):len(at)], name)...)
		return nil, false
	}
	return v.([]string), true
}

// vmid reads a VMID, which Phoenix writes as a string; a number means the same.
func (r *jsonReader) vmid(o map[string]any, name string, at ...string) int {
	s := ""
	switch v := o[name].(type) {
	case nil:
		return 0
	case string:
		if s = v; s == "" {
			return 0
		}
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	}
	n, err := vmid.Parse(s)
	if err != nil {
		r.wrong("is not a valid VMID", `a VMID such as "900"`, append(at[:len(at):len(at)], name)...)
		return 0
	}
	return n
}

func jsonType(v any) string {
	if _, ok := v.(map[string]any); ok {
		return "an object"
	}
	return typeName(v)
}

// line finds the line of a key by the path that leads to it. It reads the
// file a second time, which only mistakes are worth.
func (f *jsonFile) line(at []string) int {
	d := json.NewDecoder(bytes.NewReader(f.data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0
	}
	found := 0
	for len(at) > 0 && d.More() {
		t, err := d.Token()
		if err != nil {
			return found
		}
		if t != at[0] {
			var skip json.RawMessage
			if d.Decode(&skip) != nil {
				return found
			}
			continue
		}
		found = lineAt(f.data, d.InputOffset()-1)
		if at = at[1:]; len(at) == 0 {
			return found
		}
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return found
		}
	}
	return found
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), int64(len(data)))], []byte("\n"))
}
