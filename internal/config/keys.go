package config

import (
	"fmt"
	"slices"
	"strings"
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
