package hook

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Facts are what a decision rests on. Together with the settings they are all
// that Decide sees, so a kept trace can be decided again on any machine.
type Facts struct {
	Now time.Time `json:"now"`
	Request
	Host      HostFacts       `json:"host"`
	Container ContainerFacts  `json:"container"`
	Failure   *record.Failure `json:"failure,omitempty"` // of earlier runs
	Inputs    string          `json:"inputs"`            // digest of what a failure depends on
	// Deep is looked at only when there is something to do: it costs more.
	Deep *DeepFacts `json:"deep,omitempty"`
}

// HostFacts are of the node.
type HostFacts struct {
	Arch        string         `json:"arch"`
	Module      version.Driver `json:"module,omitempty"` // "" when none is loaded
	ModuleError string         `json:"module_error,omitempty"`
}

// ContainerFacts are read without starting a process in the container.
type ContainerFacts struct {
	Privileged  bool           `json:"privileged"`
	Recorded    version.Driver `json:"recorded,omitempty"` // what its record names
	Verified    string         `json:"verified,omitempty"` // how that was verified
	RecordError string         `json:"record_error,omitempty"`
	Differs     string         `json:"differs,omitempty"`    // how its files differ from its record
	Toolkit     string         `json:"toolkit,omitempty"`    // why the wanted toolkit is not there; "" when it is
	Packages    string         `json:"packages,omitempty"`   // why packages of the distribution are to be installed for the driver
	Docker      string         `json:"docker,omitempty"`     // the same of the Container Toolkit
	Rebooted    version.Driver `json:"rebooted,omitempty"`   // after which driver it was rebooted from inside
	RebootDue   bool           `json:"reboot_due,omitempty"` // a start has left its reboot to the unit

	Devices []string `json:"devices,omitempty"` // what is wrong with its GPUs
	NoGPU   bool     `json:"no_gpu,omitempty"`  // its configuration passes none

	// Of the shared driver.
	Share   bool           `json:"share,omitempty"`   // the container is to have it
	Entry   bool           `json:"entry,omitempty"`   // its configuration mounts it
	Mounted version.Driver `json:"mounted,omitempty"` // what of it is mounted there
	SetUp   bool           `json:"set_up,omitempty"`  // the record tells of its set-up; then Differs is about that

	// For an uninstallation.
	HasRecord    bool   `json:"has_record,omitempty"`
	HasToolkit   string `json:"has_toolkit,omitempty"`   // its name by the record
	HasPackages  bool   `json:"has_packages,omitempty"`  // packages were installed for the driver
	HasDocker    bool   `json:"has_docker,omitempty"`    // the Container Toolkit was set up
	ToolkitError string `json:"toolkit_error,omitempty"` // why that part of the record cannot be read
}

// besides says what is to be done when the driver is in place, "" when nothing is.
func (c ContainerFacts) besides() string { return cmp.Or(c.Packages, c.Toolkit, c.Docker) }

// newlyShares reports whether the shared driver v was not verified in the container yet.
func (c ContainerFacts) newlyShares(v version.Driver) bool { return c.Share && c.Recorded != v }

// beganShared reports whether all its programs were started with the shared driver.
func (c ContainerFacts) beganShared() bool { return c.Share && c.SetUp }

// DeepFacts tell what stands in the way of an installation.
type DeepFacts struct {
	Found    driver.Found     `json:"found"`
	Blockers []driver.Blocker `json:"blockers,omitempty"`
}

// Step is one part of the work, in the order of a Plan.
type Step string

// The steps. Fetch makes the run file and its tree present in the cache.
const (
	StepFetch     Step = "fetch"
	StepReplace   Step = "replace-packages" // the distribution's packages of the driver are removed
	StepUninstall Step = "uninstall"
	StepInstall   Step = "install"
	StepVerify    Step = "verify"
	StepToolkit   Step = "toolkit"
	StepRecord    Step = "record"
	StepAfter     Step = "after"    // what runs in the container is to use the new driver
	StepPackages  Step = "packages" // of the distribution that the driver's libraries need
	StepDocker    Step = "docker"   // the Container Toolkit is set up
	StepReboot    Step = "reboot"   // of the container, from inside

	StepShare Step = "share" // the container's programs are led to the shared driver

	// Of an uninstallation only.
	StepToolkitRemove  Step = "remove-toolkit"
	StepDockerRemove   Step = "remove-docker"   // what was set up for Docker and podman
	StepPackagesRemove Step = "remove-packages" // those that were installed for the driver
)

// Plan is what a decision comes to: a refusal, or steps, or neither: then all
// is as wanted.
type Plan struct {
	Wanted  version.Driver `json:"wanted,omitempty"`
	Steps   []Step         `json:"steps,omitempty"`
	Why     string         `json:"why"` // of each of the three, in words
	Refused bool           `json:"refused,omitempty"`
	Hint    string         `json:"hint,omitempty"`   // of a refusal
	Held    bool           `json:"held,omitempty"`   // refused only because it has just failed
	Verify  string         `json:"verify,omitempty"` // nvidia-smi | files
	Adopt   bool           `json:"adopt,omitempty"`  // verify what another has installed, and install it again only where it is not whole
	Deeper  bool           `json:"-"`                // decide again with Facts.Deep
}

// Decide says what to do for a container. It reads nothing but its arguments.
func Decide(s config.Settings, f Facts) Plan {
	wanted, refusal := wantedVersion(s, f.Host)
	if refusal != nil {
		return *refusal
	}
	p := Plan{Wanted: wanted, Verify: Verify(s, f.Host.Module, wanted)}
	c := f.Container
	if refusal := notShared(s.VMID, f.Host, c, wanted); refusal != nil {
		return *refusal
	}
	why := driverWork(c, p)
	verifyOnly := why == "" && (c.Verified == "files" && p.Verify == "nvidia-smi" || c.newlyShares(wanted))
	switch {
	case f.Force && why == "":
		why = fmt.Sprintf("driver %s is installed again, as --force says", wanted)
		if c.Share {
			why = fmt.Sprintf("the shared driver %s is set up again, as --force says", wanted)
		}
	case verifyOnly && c.Share:
		p.Steps = []Step{StepVerify}
		p.Why = fmt.Sprintf("the shared driver %s was not verified in the container yet", wanted)
	case verifyOnly:
		p.Steps = []Step{StepFetch, StepVerify}
		p.Why = fmt.Sprintf("driver %s was installed but only its files were checked so far", wanted)
	case why == "" && c.besides() == "" && f.Restart:
		p.Why = fmt.Sprintf("driver %s is in place, what does not use it is restarted", wanted)
		return withToolkit(p, s, f)
	case why == "" && c.besides() == "":
		p.Why = fmt.Sprintf("driver %s is in place", wanted)
		if c.Share {
			p.Why += ", shared by the node"
		}
		return p
	case why == "":
		p.Why = c.besides()
	}
	if refusal := holdBack(s.VMID, wanted, f); refusal != nil {
		return *refusal
	}
	if why == "" {
		return withToolkit(p, s, f)
	}
	p.Why = why
	if f.Deep == nil {
		p.Deeper = true
		return p
	}
	replace := f.Replace && len(f.Deep.Blockers) > 0 &&
		!slices.ContainsFunc(f.Deep.Blockers, func(b driver.Blocker) bool { return len(b.Packages) == 0 })
	if len(f.Deep.Blockers) > 0 && !replace {
		return blocked(wanted, f.Deep.Blockers)
	}
	if !c.Share {
		p.Steps = []Step{StepFetch}
	}
	if replace {
		p.Steps = append(p.Steps, StepReplace)
	}
	found := f.Deep.Found
	there := found.Log != "" || found.Any() && !replace // what packages brought is gone by then
	switch {
	case c.Share:
		if there || c.Recorded != "" && !c.SetUp {
			p.Steps = append(p.Steps, StepUninstall)
		}
		p.Steps = append(p.Steps, StepShare, StepVerify)
		return withToolkit(p, s, f)
	case !replace && !f.Force && !c.SetUp && c.Recorded == "" && c.RecordError == "" && found.Version() == wanted && found.Log == wanted:
		p.Adopt, p.Why = true, fmt.Sprintf("driver %s is in the container and nothing says that it was verified", wanted)
		p.Steps = append(p.Steps, StepVerify)
		return withToolkit(p, s, f)
	}
	if there || c.Recorded != "" || c.SetUp {
		p.Steps = append(p.Steps, StepUninstall)
	}
	p.Steps = append(p.Steps, StepInstall, StepVerify)
	return withToolkit(p, s, f)
}

// Verify is how a driver is verified: nvidia-smi or files.
func Verify(s config.Settings, module, wanted version.Driver) string {
	if module != wanted || s.GPUs == "none" {
		// The user space is installed ahead of the module, or in a container
		// that is given no GPU: nvidia-smi cannot work there.
		return "files"
	}
	return s.Driver.Verify
}

// withToolkit ends a plan: the driver is recorded before the toolkit is tried,
// so that a failed toolkit never costs a good driver.
func withToolkit(p Plan, s config.Settings, f Facts) Plan {
	changed := slices.Contains(p.Steps, StepInstall) || slices.Contains(p.Steps, StepShare)
	reboot := f.AtStart && s.After.Reboot && f.Container.Rebooted != p.Wanted && (changed && !f.Container.beganShared() || f.Container.RebootDue)
	if len(p.Steps) > 0 {
		p.Steps = append(p.Steps, StepRecord)
	}
	// CDI specifications name files by the version.
	if changed || f.Container.newlyShares(p.Wanted) || f.Restart {
		p.Steps = append(p.Steps, StepAfter)
	}
	if f.Container.Packages != "" || s.Driver.Packages && (changed || p.Adopt) { // what is lacking is known then
		p.Steps = append(p.Steps, StepPackages)
	}
	if f.Container.Toolkit != "" || f.Force && !cudaWant(s, p.Wanted, "").None() {
		p.Steps = append(p.Steps, StepToolkit, StepRecord)
	}
	if f.Container.Docker != "" {
		p.Steps = append(p.Steps, StepDocker)
	}
	if reboot { // nothing can be done after it
		p.Steps = append(p.Steps, StepReboot)
	}
	return p
}

// wantedVersion settles the first two of the three versions that must agree:
// the wanted one and the loaded kernel module's.
func wantedVersion(s config.Settings, h HostFacts) (version.Driver, *Plan) {
	var wanted version.Driver
	if s.Driver.Version != "host" {
		wanted = version.Driver(s.Driver.Version)
	}
	refuse := func(hint, format string, args ...any) (version.Driver, *Plan) {
		return "", &Plan{Wanted: wanted, Refused: true, Why: fmt.Sprintf(format, args...), Hint: hint}
	}
	if h.ModuleError != "" {
		return refuse("reboot the host after a driver change, or report this form of the file as a bug", "%s", h.ModuleError)
	}
	if s.Driver.Version == "host" {
		if h.Module == "" {
			return refuse("install the driver on the host and load it (modprobe nvidia); nvidia-smi on the host shows whether it works",
				"no NVIDIA kernel module is loaded on this host")
		}
		return h.Module, nil
	}
	if s.Driver.OnMismatch == "install" || h.Module == wanted {
		return wanted, nil
	}
	if h.Module == "" {
		return refuse("install the driver on the host and load it (modprobe nvidia), or set on_mismatch = \"install\" below [driver] to install ahead of it",
			"driver %s is wanted but no NVIDIA kernel module is loaded on this host", wanted)
	}
	return refuse(fmt.Sprintf("the driver in the container must have exactly the version of the host's module: set version = \"host\" or %q (it came from %s), or load %s on the host", h.Module, cmp.Or(s.Origin("driver.version"), "an unknown place"), wanted),
		"driver %s is wanted but the host's kernel module is %s", wanted, h.Module)
}

// driverWork says why the driver has to be installed or set up, or "".
func driverWork(c ContainerFacts, p Plan) string {
	switch {
	case c.RecordError != "":
		return c.RecordError
	case c.Share && !c.SetUp:
		return fmt.Sprintf("the shared driver %s is not set up in the container yet", p.Wanted)
	case c.Share: // only its set-up can differ
	case c.SetUp:
		return fmt.Sprintf("driver %s is to be installed, the container has had the shared one so far", p.Wanted)
	case c.Recorded == "":
		return fmt.Sprintf("driver %s is not installed yet", p.Wanted)
	case c.Recorded != p.Wanted:
		return fmt.Sprintf("driver %s is installed, %s is wanted", c.Recorded, p.Wanted)
	}
	return c.Differs
}

func blocked(wanted version.Driver, blockers []driver.Blocker) Plan {
	var reasons, hints []string
	for _, b := range blockers {
		if b.Version != "" && b.Version == wanted {
			// It is not taken over: the distribution upgrades it by itself, and nothing
			// here says which files it has to have.
			b.Reason = fmt.Sprintf("driver %s fits, but it comes from packages of the distribution", wanted)
			b.Hint = "leave it to them with VMID.enabled = false below [containers] of the configuration; or else: " + b.Hint
		}
		reasons = append(reasons, b.Reason)
		hints = append(hints, b.Hint)
	}
	return Plan{Wanted: wanted, Refused: true, Why: strings.Join(reasons, "; "), Hint: strings.Join(hints, "; ")}
}
