// Package config reads the settings of this node and of each container, and
// knows of every value where it came from.
package config

import "time"

// Settings are the values that hold for one container.
type Settings struct {
	VMID   int
	Driver struct {
		Version         string // "host" or a driver version
		URLs            []string
		SHA256          string
		RequireChecksum bool
		OnMismatch      string // refuse | install
		Flags           []string
		Verify          string // nvidia-smi | files
	}
	Cache struct {
		Dir         string
		Keep        int
		LockTimeout time.Duration
	}
	Install struct {
		Deliver    string // auto | mount | push
		Timeout    time.Duration
		Background string // auto | never | always
	}
	CUDA struct {
		Toolkit  string // "", "auto" or a release such as "12.8"
		Packages []string
		RepoURL  string
	}
	Paths   struct{ State, Run, LXC, Metrics string }
	GPUs    string // all | none | 0,1
	Chain   string
	Wanted  bool   // a configuration wants the driver in this container
	WhyNot  string // when not Wanted: who says so, in words
	Name    string // Phoenix's name of the container, if any
	origins map[string]string
}

// Origin says where a value came from, for instance "default",
// "/etc/pve-nvidia-hook/config.toml:12" or "phoenix_lxc_configs.json, container 901 (parent of 801)". key is "driver.version" and so on.
func (s Settings) Origin(key string) string { return s.origins[key] }

// Keys lists every key in the order of the documentation.
func Keys() []string { panic("todo") }

// Config is all that the files of this node say.
type Config struct{}

// Load reads defaults, cluster file, Phoenix files and file, in that order.
// A missing default file is no error, a missing named one is. The error names every mistake of every file, one a line.
func Load(file string, o Options) (*Config, error) { panic("todo") }

// Options say where the files stand.
type Options struct {
	Cluster  string // "": /etc/pve/pve-nvidia-hook.toml below HostRoot
	HostRoot string // "" is /
	Named    bool   // file was named by the user: it must exist
}

// For returns the settings of a container. An error is a mistake of that container's settings only.
func (c *Config) For(vmid int) (Settings, error) { panic("todo") }

// Containers lists every VMID that a file names, sorted.
func (c *Config) Containers() []int { panic("todo") }
