package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// scope says where a key may stand.
type scope int

const (
	node      scope = iota // in its section, for the whole node
	both                   // in its section, or in [containers.VMID]
	dotted                 // the same, there with its section only: another key has the short name
	container              // in [containers.VMID] only
)

// key is one setting: what it is called, where it may stand, what it may be,
// and which field holds it. Files, JSON and `config show` all go by this table.
type key struct {
	name    string
	scope   scope
	allowed string
	check   func(any) (any, string) // the value in its normal form, or what is wrong with it
	field   func(*Settings) any     // pointer to the field; its type is the type of the value
}

var keys = []key{
	{"driver.version", both, `"host" or a driver version such as "580.76.05"`, str(checkVersion),
		func(s *Settings) any { return &s.Driver.Version }},
	{"driver.urls", both, "https URLs of a file (http only with a pinned sha256) with the placeholders {version}, {arch}, {os_arch} and {file}", each(16, checkURL),
		func(s *Settings) any { return &s.Driver.URLs }},
	{"driver.sha256", both, `64 hex digits, or ""`, str(checkSHA256),
		func(s *Settings) any { return &s.Driver.SHA256 }},
	{"driver.require_checksum", both, "true or false", nil,
		func(s *Settings) any { return &s.Driver.RequireChecksum }},
	oneOf("driver.on_mismatch", func(s *Settings) any { return &s.Driver.OnMismatch }, "refuse", "install"),
	{"driver.flags", both, "options of nvidia-installer that start with -- and are not set by this program itself", each(32, checkFlag),
		func(s *Settings) any { return &s.Driver.Flags }},
	{"driver.capabilities", both, `some of "compute", "utility", "video", "graphics", "display", "ngx" and "compat32", or "all" alone`, checkCapabilities,
		func(s *Settings) any { return &s.Driver.Capabilities }},
	{"driver.packages", dotted, "true or false", nil,
		func(s *Settings) any { return &s.Driver.Packages }},
	oneOf("driver.verify", func(s *Settings) any { return &s.Driver.Verify }, "nvidia-smi", "files"),

	{"cache.dir", node, "an absolute path without ..", str(checkPath),
		func(s *Settings) any { return &s.Cache.Dir }},
	{"cache.keep", node, "a whole number from 1 to 1000", checkKeep,
		func(s *Settings) any { return &s.Cache.Keep }},
	{"cache.lock_timeout", node, period, checkPeriod,
		func(s *Settings) any { return &s.Cache.LockTimeout }},

	oneOf("install.deliver", func(s *Settings) any { return &s.Install.Deliver }, "auto", "mount", "push", "share"),
	{"install.timeout", both, period, checkPeriod,
		func(s *Settings) any { return &s.Install.Timeout }},
	oneOf("install.background", func(s *Settings) any { return &s.Install.Background }, "auto", "never", "always"),

	{"share.wait", node, period, checkPeriod,
		func(s *Settings) any { return &s.Share.Wait }},

	{"cuda.toolkit", both, `a release such as "12.8", "auto", or "" for none`, str(checkToolkit),
		func(s *Settings) any { return &s.CUDA.Toolkit }},
	{"cuda.packages", both, `package names such as "nvtop" or "nvtop=3.0.1-1"`, each(64, checkPackage),
		func(s *Settings) any { return &s.CUDA.Packages }},
	{"cuda.repo_url", both, `an https URL (http on a loopback address only), with the placeholders {distro} and {arch}, or ""`, str(checkRepoURL),
		func(s *Settings) any { return &s.CUDA.RepoURL }},

	{"after.restart", both, `"auto", "never", or names of services such as "my.service"`, checkRestart,
		func(s *Settings) any { return &s.After.Restart }},
	{"after.reboot", both, "true or false", nil,
		func(s *Settings) any { return &s.After.Reboot }},
	{"after.run", both, `lists of a program and its arguments, such as [["/root/patch.sh", "-q"]]`, checkRun,
		func(s *Settings) any { return &s.After.Run }},

	{"docker.toolkit", dotted, "true or false", nil,
		func(s *Settings) any { return &s.Docker.Toolkit }},

	{"notify.mail", node, "true or false", nil,
		func(s *Settings) any { return &s.Notify.Mail }},

	{"phoenix.lxc_configs", node, `an absolute path without .., or ""`, str(orEmpty(checkPath)),
		func(s *Settings) any { return &s.Phoenix.LXCConfigs }},
	{"phoenix.hypervisor_config", node, `an absolute path without .., or ""`, str(orEmpty(checkPath)),
		func(s *Settings) any { return &s.Phoenix.HypervisorConfig }},

	{"paths.state", node, "an absolute path without ..", str(checkPath),
		func(s *Settings) any { return &s.Paths.State }},
	{"paths.run", node, "an absolute path without ..", str(checkPath),
		func(s *Settings) any { return &s.Paths.Run }},
	{"paths.lxc", node, "an absolute path without ..", str(checkPath),
		func(s *Settings) any { return &s.Paths.LXC }},
	{"paths.metrics", node, `an absolute path that ends in .prom, or "" for none`, str(orEmpty(checkMetrics)),
		func(s *Settings) any { return &s.Paths.Metrics }},

	{"enabled", container, "true or false", nil,
		func(s *Settings) any { return &s.Wanted }},
	{"gpus", container, `"all", "none", or a list such as "0,GPU-5c4f,01:00.0"`, str(CheckGPUs),
		func(s *Settings) any { return &s.GPUs }},
	{"chain", container, `a snippet such as "local:snippets/other.sh", or ""`, str(orEmpty(checkChain)),
		func(s *Settings) any { return &s.Chain }},
}

func oneOf(name string, field func(*Settings) any, words ...string) key {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	allowed := strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
	return key{name, both, allowed, str(func(s string) (string, string) {
		if !slices.Contains(words, s) {
			return "", quote(s) + " is not known"
		}
		return s, ""
	}), field}
}

// find returns the key of that full name, or nil.
func find(name string) *key {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

// findShort returns the key that a [containers.VMID] section calls by the last
// part of its name.
func findShort(short string) *key {
	for i := range keys {
		if k := &keys[i]; k.scope != node && k.scope != dotted && k.short() == short {
			return k
		}
	}
	return nil
}

func (k *key) short() string { return k.name[strings.LastIndexByte(k.name, '.')+1:] }

// section is the part before the dot, "" for the keys of [containers.VMID] only.
func (k *key) section() string { return k.name[:max(strings.IndexByte(k.name, '.'), 0)] }

// read brings a value of a TOML or JSON file into the type of the field and
// its normal form, or says what is wrong with it.
func (k *key) read(raw any) (any, string) {
	var s Settings
	v, wrong := convert(k.field(&s), raw)
	if wrong == "" && k.check != nil {
		v, wrong = k.check(v)
	}
	return v, wrong
}

func convert(field, raw any) (any, string) {
	switch field.(type) {
	case *string:
		if v, ok := raw.(string); ok {
			return v, ""
		}
		return nil, "must be a string, is " + typeName(raw)
	case *bool:
		if v, ok := raw.(bool); ok {
			return v, ""
		}
		return nil, "must be true or false, is " + typeName(raw)
	case *int:
		switch v := raw.(type) {
		case int64:
			if int64(int(v)) == v {
				return int(v), ""
			}
		case float64: // JSON has no other numbers
			if v == float64(int(v)) {
				return int(v), ""
			}
		}
		return nil, "must be a whole number, is " + typeName(raw)
	case *time.Duration:
		v, ok := raw.(string)
		if !ok {
			return nil, `must be a string with a unit such as "15m", is ` + typeName(raw)
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return nil, quote(v) + " is not a duration"
		}
		return d, ""
	case *[]string:
		return stringList(raw)
	case *Restart:
		if word, ok := raw.(string); ok {
			if word != Auto && word != never {
				return nil, quote(word) + " is not known"
			}
			return Restart{Never: word == never}, ""
		}
		list, wrong := stringList(raw)
		return Restart{Units: list}, wrong
	case *[][]string:
		items, ok := raw.([]any)
		if !ok {
			return nil, "must be a list of lists of strings, is " + typeName(raw)
		}
		lists := make([][]string, len(items))
		for i, item := range items {
			var wrong string
			if lists[i], wrong = stringList(item); wrong != "" {
				return nil, fmt.Sprintf("item %d %s", i+1, wrong)
			}
		}
		return lists, ""
	}
	return nil, "has no type" // not reached: the table holds these only
}

func stringList(raw any) ([]string, string) {
	items, ok := raw.([]any)
	if !ok {
		return nil, "must be a list of strings, is " + typeName(raw)
	}
	list := make([]string, len(items))
	for i, item := range items {
		if list[i], ok = item.(string); !ok {
			return nil, fmt.Sprintf("item %d must be a string, is %s", i+1, typeName(item))
		}
	}
	return list, ""
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	case nil:
		return "null"
	}
	return "a date or time"
}

// store puts a value that read returned into its field.
func (k *key) store(s *Settings, v any) {
	switch field := k.field(s).(type) {
	case *string:
		*field = v.(string)
	case *bool:
		*field = v.(bool)
	case *int:
		*field = v.(int)
	case *time.Duration:
		*field = v.(time.Duration)
	case *[]string:
		*field = slices.Clone(v.([]string)) // Settings may be changed by who holds them
	case *Restart:
		*field = v.(Restart)
		field.Units = slices.Clone(field.Units)
	case *[][]string:
		*field = make([][]string, 0, len(v.([][]string)))
		for _, list := range v.([][]string) {
			*field = append(*field, slices.Clone(list))
		}
	}
}

// value returns what the field holds as a string, bool, int, []string or [][]string.
func (k *key) value(s *Settings) any {
	switch field := k.field(s).(type) {
	case *string:
		return *field
	case *bool:
		return *field
	case *int:
		return *field
	case *time.Duration:
		return shortDuration(*field)
	case *[]string:
		return append([]string{}, *field...) // never null in JSON
	case *Restart:
		switch {
		case field.Never:
			return never
		case len(field.Units) == 0:
			return Auto
		}
		return slices.Clone(field.Units)
	case *[][]string:
		return append([][]string{}, *field...)
	}
	return nil
}

// shortDuration writes 15m0s as 15m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
