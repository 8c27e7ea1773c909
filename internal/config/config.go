// Package config reads the settings of this node and of each container, and
// knows of every value where it came from.
package config

import "time"

// Default places of the two files of our own.
const (
	DefaultFile    = "/etc/pve-nvidia-hook/config.toml"
	DefaultCluster = "/etc/pve/pve-nvidia-hook.toml"
)

// Settings are the values that hold for one container.
type Settings struct {
	VMID   int
	Driver struct {
		Version         string   // "host" or a driver version
		URLs            []string // templates: {version} {arch} {os_arch} {file}
		SHA256          string   // lower-case hex, or ""
		RequireChecksum bool
		OnMismatch      string // refuse | install
		Flags           []string
		Capabilities    []string // of capabilities, in their order
		Packages        bool     // install what the capabilities need of the distribution
		Verify          string   // nvidia-smi | files
	}
	Cache struct {
		Dir         string
		Keep        int
		LockTimeout time.Duration
	}
	Install struct {
		Deliver    string // auto | mount | push | share
		Timeout    time.Duration
		Background string // auto | never | always
	}
	Share struct {
		Wait time.Duration // how long a start waits for the shared driver
	}
	CUDA struct {
		Toolkit  string // "", "auto" or a release such as "12.8"
		Packages []string
		RepoURL  string
	}
	After struct {
		Restart Restart
		Reboot  bool
		Run     [][]string // each a program and its arguments
	}
	Docker  struct{ Toolkit bool }
	Notify  struct{ Mail bool }
	Phoenix struct{ LXCConfigs, HypervisorConfig string }
	Paths   struct{ State, Run, LXC, Metrics string }
	GPUs    string // all | none | 0,1
	Chain   string
	Wanted  bool   // a configuration wants the driver in this container
	WhyNot  string // when not Wanted: who says so, in words
	Name    string // Phoenix's name of the container, if any
	origins map[string]string
}

// Restart says which services of a container are restarted after its driver was
// replaced: none, or those that need it, and Units whether they seem to or not.
type Restart struct {
	Never bool
	Units []string
}

// Auto and never are the words for a Restart without Units.
const (
	Auto  = "auto"
	never = "never"
)

// Origin says where a value came from, for instance "default",
// "/etc/pve-nvidia-hook/config.toml:12" or "phoenix_lxc_configs.json, container 901 (parent of 801)".
// key is "driver.version" and so on.
func (s Settings) Origin(key string) string {
	if o := s.origins[key]; o != "" {
		return o
	}
	return "default"
}

// DefaultState is the state folder when nothing names another.
const DefaultState = "/var/lib/pve-nvidia-hook"

// defaults are the values that hold when no file says otherwise.
func defaults(vmid int) Settings {
	s := Settings{VMID: vmid, GPUs: "all", Wanted: true}
	s.Driver.Version = "host"
	s.Driver.URLs = []string{
		"https://us.download.nvidia.com/XFree86/{os_arch}/{version}/{file}",
		"https://us.download.nvidia.com/tesla/{version}/{file}",
	}
	s.Driver.OnMismatch = "refuse"
	s.Driver.Flags = []string{}
	s.Driver.Capabilities = []string{"compute", "utility", "video", "graphics"}
	s.Driver.Verify = "nvidia-smi"
	s.Cache.Dir = "/var/cache/pve-nvidia-hook"
	s.Cache.Keep = 2
	s.Cache.LockTimeout = 15 * time.Minute
	s.Install.Deliver = "auto"
	s.Install.Timeout = 15 * time.Minute
	s.Install.Background = "auto"
	s.Share.Wait = 5 * time.Minute
	s.CUDA.Packages = []string{}
	s.After.Run = [][]string{}
	s.Notify.Mail = true
	s.Paths.State = DefaultState
	s.Paths.Run = "/run/pve-nvidia-hook"
	s.Paths.LXC = "/var/lib/lxc"
	s.Paths.Metrics = "/var/lib/prometheus/node-exporter/pve_nvidia_hook.prom"
	return s
}
