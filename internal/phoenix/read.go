package phoenix

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// Check judges the text of a setting: its normal form, or what is wrong with it,
// and in any case what is allowed.
type Check func(setting, text string) (normal, wrong, allowed string)

// Problem is one thing wrong in a file.
type Problem struct {
	File    string
	Line    int    // from 1; 0: the file as a whole
	Key     string // the path to it, joined by dots
	What    string
	Allowed string
}

// names are keys of the files with the settings that they stand for.
type names []struct{ key, setting string }

var (
	guestKeys = names{{"nvidia_driver_version", "driver.version"}, {"nvidia_runfile_url", "driver.urls"},
		{"nvidia_repo_url", "cuda.repo_url"}, {"gpu_assignment", "gpus"}}
	rootKeys       = guestKeys[:3]
	hypervisorKeys = names{{"version", "driver.version"}, {"runfile_url", "driver.urls"}, {"cuda_version", "cuda.toolkit"}}
)

func keyOf(list names, setting string) string {
	for _, n := range list {
		if n.setting == setting {
			return n.key
		}
	}
	return ""
}

// ReadLXCConfigs reads the text of a phoenix_lxc_configs.json.
func (p *Phoenix) ReadLXCConfigs(name string, data []byte, check Check) []Problem {
	p.lxc = &file{name, data}
	r := reader{file: p.lxc, check: check}
	top := r.open()
	p.root.values = r.values(rootKeys, top)
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
		p.guests[number] = guest{
			name:     r.text(o, "name", "", at...),
			values:   r.values(guestKeys, o, at...),
			features: r.list(o, "features", at...),
			parent:   r.vmid(o, "clone_from_ctid", at...),
		}
	}
	return r.problems
}

// ReadHypervisorConfig reads the text of a phoenix_hypervisor_config.json.
func (p *Phoenix) ReadHypervisorConfig(name string, data []byte, check Check) []Problem {
	p.hypervisor = &file{name, data}
	r := reader{file: p.hypervisor, check: check}
	at := "nvidia_driver"
	o := r.object(r.open(), at, at)
	install, ok := o["install"].(bool)
	if !ok && o["install"] != nil {
		r.wrong("must be true or false, is "+typeName(o["install"]), "true or false", at, "install")
	}
	p.off = ok && !install
	p.values = r.values(hypervisorKeys, o, at)
	return r.problems
}

// reader takes known keys out of decoded JSON and collects what is wrong with them.
type reader struct {
	file     *file
	check    Check
	problems []Problem
}

func (r *reader) wrong(what, allowed string, at ...string) {
	r.problems = append(r.problems, r.file.problem(what, allowed, at...))
}

func (r *reader) open() map[string]any {
	var v any
	if err := json.Unmarshal(r.file.data, &v); err != nil {
		wrong := Problem{File: r.file.name, What: "JSON syntax: " + strings.TrimPrefix(err.Error(), "json: ")}
		var at *json.SyntaxError
		if errors.As(err, &at) {
			wrong.Line = lineAt(r.file.data, at.Offset-1)
		}
		r.problems = append(r.problems, wrong)
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		r.problems = append(r.problems, Problem{r.file.name, 1, "", "must be an object, is " + typeName(v), "{ ... }"})
	}
	return o
}

func (r *reader) object(in map[string]any, name string, at ...string) map[string]any {
	o, ok := in[name].(map[string]any)
	if !ok && in[name] != nil {
		r.wrong("must be an object, is "+typeName(in[name]), "{ ... }", at...)
	}
	return o
}

// values reads the keys of a list.
func (r *reader) values(list names, o map[string]any, at ...string) map[string]string {
	all := map[string]string{}
	for _, n := range list {
		if text := r.text(o, n.key, n.setting, at...); text != "" {
			all[n.setting] = text
		}
	}
	return all
}

// text reads a string; a key that is missing, null or "" is lacking. That of no
// setting is a name, of which nothing is expected but a string.
func (r *reader) text(o map[string]any, name, setting string, at ...string) string {
	if o[name] == nil {
		return ""
	}
	at = append(at[:len(at):len(at)], name)
	text, ok := o[name].(string)
	normal, wrong, allowed := r.check(setting, text)
	switch {
	case !ok:
		r.wrong("must be a string, is "+typeName(o[name]), allowed, at...)
	case text == "":
	case wrong != "":
		r.wrong(wrong, allowed, at...)
	default:
		return normal
	}
	return ""
}

// list reads a list of strings, nil when there is none.
func (r *reader) list(o map[string]any, name string, at ...string) []string {
	if o[name] == nil {
		return nil
	}
	at = append(at[:len(at):len(at)], name)
	items, ok := o[name].([]any)
	what := "must be a list of strings, is " + typeName(o[name])
	list := make([]string, len(items))
	for i, item := range items {
		if list[i], ok = item.(string); !ok {
			what = "item " + strconv.Itoa(i+1) + " must be a string, is " + typeName(item)
			break
		}
	}
	if !ok {
		r.wrong(what, `a list of strings such as ["nvidia"]`, at...)
		return nil
	}
	return list
}

// vmid reads a VMID, which Phoenix writes as a string; a number means the same.
func (r *reader) vmid(o map[string]any, name string, at ...string) int {
	s := ""
	switch v := o[name].(type) {
	case string:
		s = v
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	}
	if s == "" && (o[name] == nil || o[name] == "") {
		return 0
	}
	n, err := vmid.Parse(s)
	if err != nil {
		r.wrong("is not a valid VMID", `a VMID such as "900"`, append(at[:len(at):len(at)], name)...)
	}
	return n
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case nil:
		return "null"
	}
	return "an object"
}

// file is kept for the lines of problems that show later.
type file struct {
	name string
	data []byte
}

func (f *file) base() string { return filepath.Base(f.name) }

// problem names the place of a key by the path that leads to it.
func (f *file) problem(what, allowed string, at ...string) Problem {
	return Problem{f.name, f.line(at), strings.Join(at, "."), what, allowed}
}

// line finds the line of a key by the path that leads to it. It reads the
// file a second time, which only problems are worth.
func (f *file) line(at []string) int {
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
