package hook

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestDecide(t *testing.T) {
	const v, old = "580.142", "570.86.16"
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	host := func(module string) HostFacts { return HostFacts{Arch: "x86_64", Module: version.Driver(module)} }
	inPlace := ContainerFacts{Recorded: v, Verified: "nvidia-smi"}
	failure := &record.Failure{Count: 2, Seconds: 60, Next: now.Add(time.Hour), Inputs: "same", Reason: "no room"}
	clean := &DeepFacts{}
	// A container that is to have the shared driver, with version mounted and what its
	// record tells.
	shared := func(mounted version.Driver, c ContainerFacts) ContainerFacts {
		c.Share, c.Mounted = true, mounted
		return c
	}
	setUp := ContainerFacts{SetUp: true, Recorded: v, Verified: "nvidia-smi"}
	installed := &DeepFacts{Found: driver.Found{Log: old}}
	packages := []driver.Blocker{{Reason: "distribution packages", Hint: "--replace-packages", Packages: []string{"libcuda1"}, Version: "535.261.03"}}
	fitting := []driver.Blocker{{Reason: "distribution packages", Hint: "--replace-packages", Packages: []string{"libcuda1"}, Version: v}}
	cases := []struct {
		name   string
		set    func(*config.Settings)
		facts  Facts
		steps  string
		why    string
		refuse bool
		deeper bool
		verify string
	}{
		{name: "in place", facts: Facts{Host: host(v), Container: inPlace}, why: "driver 580.142 is in place"},
		{name: "nothing there, shallow", facts: Facts{Host: host(v)}, why: "not installed yet", deeper: true},
		{name: "nothing there", facts: Facts{Host: host(v), Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "older there", facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: old}, Deep: clean}, why: "570.86.16 is installed, 580.142 is wanted", steps: "fetch uninstall install verify record after"},
		{name: "half an install", facts: Facts{Host: host(v), Deep: &DeepFacts{Found: driver.Found{Log: v}}}, why: "not installed yet", steps: "fetch uninstall install verify record after"},
		{name: "installed by hand", facts: Facts{Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: v, NVML: v, Log: v}}}, why: "nothing says that it was verified", steps: "fetch verify record"},
		{name: "installed by hand, forced", facts: Facts{Request: Request{Force: true}, Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: v, NVML: v, Log: v}}}, why: "not installed yet", steps: "fetch uninstall install verify record after"},
		{name: "older installed by hand", facts: Facts{Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: old, NVML: old, Log: old}}}, why: "not installed yet", steps: "fetch uninstall install verify record after"},
		{name: "two versions by hand", facts: Facts{Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: v, NVML: old, Log: v}}}, why: "not installed yet", steps: "fetch uninstall install verify record after"},
		{name: "links of this version without an installer's notes", facts: Facts{Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: v, NVML: v}}}, why: "not installed yet", steps: "fetch uninstall install verify record after"},
		{name: "stale clone", facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Differs: "the file x is gone"}, Deep: clean}, why: "the file x is gone", steps: "fetch uninstall install verify record after"},
		{name: "record not to be believed", facts: Facts{Host: host(v), Container: ContainerFacts{RecordError: "format 9"}, Deep: clean}, why: "format 9", steps: "fetch install verify record after"},
		{name: "only files were checked", facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "files"}}, why: "only its files were checked", steps: "fetch verify record"},
		{name: "files are enough", set: func(s *config.Settings) { s.Driver.Verify = "files" }, facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "files"}}, why: "is in place", verify: "files"},
		{name: "no GPU is handed over", set: func(s *config.Settings) { s.GPUs = "none" }, facts: Facts{Host: host(v), Deep: clean}, why: "not installed yet", steps: "fetch install verify record after", verify: "files"},
		{name: "forced", facts: Facts{Request: Request{Force: true}, Host: host(v), Container: inPlace, Deep: clean}, why: "driver 580.142 is installed again, as --force says", steps: "fetch uninstall install verify record after"},
		{name: "no module", facts: Facts{}, why: "no NVIDIA kernel module is loaded", refuse: true},
		{name: "module of unknown form", facts: Facts{Host: HostFacts{ModuleError: "odd"}}, why: "odd", refuse: true},
		{name: "mismatch", set: pin(old), facts: Facts{Host: host(v)}, why: "driver 570.86.16 is wanted but the host's kernel module is 580.142", refuse: true},
		{name: "pinned, no module", set: pin(old), facts: Facts{}, why: "no NVIDIA kernel module is loaded", refuse: true},
		{name: "mismatch, install ahead", set: ahead(old), facts: Facts{Host: host(v), Deep: clean}, why: "not installed yet", steps: "fetch install verify record after", verify: "files"},
		{name: "installed ahead", set: ahead(old), facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: old, Verified: "files"}}, why: "is in place", verify: "files"},
		{name: "following the host without a module", set: func(s *config.Settings) { s.Driver.OnMismatch = "install" }, facts: Facts{}, why: "no NVIDIA kernel module is loaded", refuse: true},
		{name: "packages", facts: Facts{Host: host(v), Deep: &DeepFacts{Blockers: packages}}, why: "distribution packages", refuse: true},
		{name: "packages for the driver", set: ownPackages, facts: Facts{Host: host(v), Deep: clean}, why: "not installed yet", steps: "fetch install verify record after packages"},
		{name: "packages for the driver only", set: ownPackages, facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", Packages: "libraries need packages", Toolkit: "no toolkit"}}, why: "libraries need packages", steps: "packages toolkit record"},
		{name: "packages that fit", facts: Facts{Host: host(v), Deep: &DeepFacts{Blockers: fitting}}, why: "driver 580.142 fits, but it comes from packages", refuse: true},
		{name: "packages, replaced", facts: Facts{Request: Request{Replace: true}, Host: host(v), Deep: &DeepFacts{Found: driver.Found{CUDA: v, NVML: v}, Blockers: packages}}, why: "not installed yet", steps: "fetch replace-packages install verify record after"},
		{name: "packages over ours, replaced", facts: Facts{Request: Request{Replace: true}, Host: host(v), Deep: &DeepFacts{Found: driver.Found{Log: v}, Blockers: packages}}, why: "not installed yet", steps: "fetch replace-packages uninstall install verify record after"},
		{name: "packages and more", facts: Facts{Request: Request{Replace: true}, Host: host(v), Deep: &DeepFacts{Blockers: append([]driver.Blocker{packages[0]}, driver.Blocker{Reason: "musl", Hint: "use glibc"})}}, why: "musl", refuse: true},
		{name: "blocked", facts: Facts{Host: host(v), Deep: &DeepFacts{Blockers: []driver.Blocker{{Reason: "musl", Hint: "use glibc"}}}}, why: "musl", refuse: true},
		{name: "failed lately", facts: Facts{Now: now, Host: host(v), Failure: failure, Inputs: "same", Deep: clean}, why: "it failed 2 times in a row: no room", refuse: true},
		{name: "failed lately, in no time", facts: Facts{Now: now, Host: host(v), Failure: &record.Failure{Count: 2, Seconds: 2, Next: now.Add(time.Hour), Inputs: "same"}, Inputs: "same", Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "failed lately, other inputs", facts: Facts{Now: now, Host: host(v), Failure: failure, Inputs: "other", Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "failed long ago", facts: Facts{Now: now.Add(2 * time.Hour), Host: host(v), Failure: failure, Inputs: "same", Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "failed lately, forced", facts: Facts{Request: Request{Force: true}, Now: now, Host: host(v), Failure: failure, Inputs: "same", Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "failed lately, but all is well", facts: Facts{Now: now, Host: host(v), Container: inPlace, Failure: failure, Inputs: "same"}, why: "is in place"},
		{name: "toolkit only", facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", Toolkit: "no toolkit is installed"}}, why: "no toolkit is installed", steps: "toolkit record"},
		{name: "driver, then toolkit", facts: Facts{Host: host(v), Container: ContainerFacts{Toolkit: "no toolkit is installed"}, Deep: clean}, why: "not installed yet", steps: "fetch install verify record after toolkit record"},
		{name: "toolkit failed lately", facts: Facts{Now: now, Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", Toolkit: "no toolkit is installed"}, Failure: failure, Inputs: "same"}, why: "next attempt after", refuse: true},
		{name: "the programs are to follow", facts: Facts{Request: Request{Restart: true}, Host: host(v), Container: inPlace}, why: "is in place, what does not use it is restarted", steps: "after"},
		{name: "Container Toolkit only", facts: Facts{Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", Docker: "it is not set up yet"}}, why: "it is not set up yet", steps: "docker"},
		{name: "driver, then both toolkits", facts: Facts{Host: host(v), Container: ContainerFacts{Toolkit: "no toolkit is installed", Docker: "it is not set up yet"}, Deep: clean}, why: "not installed yet", steps: "fetch install verify record after toolkit record docker"},
		{name: "reboot after a start", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: ContainerFacts{Toolkit: "no toolkit is installed"}, Deep: clean}, why: "not installed yet", steps: "fetch install verify record after toolkit record reboot"},
		{name: "reboot left to the unit", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", RebootDue: true, Toolkit: "no toolkit is installed"}}, why: "no toolkit is installed", steps: "toolkit record reboot"},
		{name: "no second reboot for a driver", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: ContainerFacts{Recorded: v, Differs: "the file x is gone", Rebooted: v}, Deep: clean}, why: "the file x is gone", steps: "fetch uninstall install verify record after"},
		{name: "no reboot of one that runs", set: reboot, facts: Facts{Host: host(v), Deep: clean}, why: "not installed yet", steps: "fetch install verify record after"},
		{name: "no reboot when all is in place", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", RebootDue: true}}, why: "is in place"},
		{name: "asked for by a person after a failure", facts: Facts{Now: now, Request: Request{Asked: true}, Host: host(v), Container: ContainerFacts{Recorded: v, Verified: "nvidia-smi", Toolkit: "no toolkit is installed"}, Failure: failure, Inputs: "same"}, why: "no toolkit is installed", steps: "toolkit record"},
		{name: "shared, in place", facts: Facts{Host: host(v), Container: shared(v, setUp)}, why: "is in place, shared by the node"},
		{name: "shared, nothing mounted", facts: Facts{Host: host(v), Container: shared("", setUp)}, why: "is not mounted in the container", refuse: true},
		{name: "shared, of before the host's upgrade", facts: Facts{Host: host(v), Container: shared(old, setUp)}, why: "was started with the shared driver 570.86.16", refuse: true},
		{name: "shared, not set up, shallow", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{})}, why: "not set up in the container yet", deeper: true},
		{name: "shared, not set up", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{}), Deep: clean}, why: "not set up in the container yet", steps: "share verify record after"},
		{name: "shared, beside packages", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{}), Deep: &DeepFacts{Blockers: []driver.Blocker{{Reason: "packages", Hint: "purge"}}}}, why: "packages", refuse: true},
		{name: "shared, beside packages, replaced", facts: Facts{Request: Request{Replace: true}, Host: host(v), Container: shared(v, ContainerFacts{}), Deep: &DeepFacts{Found: driver.Found{CUDA: old, NVML: old}, Blockers: packages}}, why: "not set up in the container yet", steps: "replace-packages share verify record after"},
		{name: "shared, packages over an installed one, replaced", facts: Facts{Request: Request{Replace: true}, Host: host(v), Container: shared(v, inPlace), Deep: &DeepFacts{Found: driver.Found{Log: v}, Blockers: packages}}, why: "not set up in the container yet", steps: "replace-packages uninstall share verify record after"},
		{name: "shared, another version since", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{SetUp: true, Recorded: old, Verified: "nvidia-smi"})}, why: "not verified in the container yet", steps: "verify record after"},
		{name: "shared, set-up differs", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{SetUp: true, Recorded: v, Differs: "a link is gone"}), Deep: clean}, why: "a link is gone", steps: "share verify record after"},
		{name: "shared, a first reboot", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: shared(v, ContainerFacts{}), Deep: clean}, why: "not set up in the container yet", steps: "share verify record after reboot"},
		{name: "shared, no reboot for an upgrade", set: reboot, facts: Facts{Request: Request{AtStart: true}, Host: host(v), Container: shared(v, ContainerFacts{SetUp: true, Recorded: old, Differs: "it has other files"}), Deep: clean}, why: "it has other files", steps: "share verify record after"},
		{name: "shared, forced", facts: Facts{Request: Request{Force: true}, Host: host(v), Container: shared(v, setUp), Deep: clean}, why: "as --force says", steps: "share verify record after"},
		{name: "shared in place of an installed one", facts: Facts{Host: host(v), Container: shared(v, inPlace), Deep: installed}, why: "not set up in the container yet", steps: "uninstall share verify record after"},
		{name: "shared, another version pinned", set: ahead(old), facts: Facts{Host: host(v), Container: shared(v, setUp)}, why: "the shared driver is that of the host's kernel module", refuse: true, verify: "files"},
		{name: "shared, toolkit too", facts: Facts{Host: host(v), Container: shared(v, ContainerFacts{SetUp: true, Recorded: v, Verified: "nvidia-smi", Toolkit: "no toolkit is installed"})}, why: "no toolkit is installed", steps: "toolkit record"},
		{name: "installed in place of a shared one", facts: Facts{Host: host(v), Container: setUp, Deep: clean}, why: "the container has had the shared one", steps: "fetch uninstall install verify record after"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var s config.Settings
			s.Driver.Version, s.Driver.OnMismatch, s.Driver.Verify = "host", "refuse", "nvidia-smi"
			if c.set != nil {
				c.set(&s)
			}
			p := Decide(s, c.facts)
			require.Contains(t, p.Why, c.why)
			require.Equal(t, c.refuse, p.Refused)
			require.Equal(t, c.deeper, p.Deeper)
			var steps []string
			for _, step := range p.Steps {
				steps = append(steps, string(step))
			}
			require.Equal(t, c.steps, strings.Join(steps, " "))
			if c.refuse {
				require.NotEmpty(t, p.Hint, "a refusal says what to do")
			} else if c.verify == "" {
				require.Equal(t, "nvidia-smi", p.Verify)
			} else {
				require.Equal(t, c.verify, p.Verify)
			}
		})
	}
}

func ownPackages(s *config.Settings) { s.Driver.Packages = true }

func reboot(s *config.Settings) { s.After.Reboot = true }

func pin(v string) func(*config.Settings) {
	return func(s *config.Settings) { s.Driver.Version = v }
}

func ahead(v string) func(*config.Settings) {
	return func(s *config.Settings) { s.Driver.Version, s.Driver.OnMismatch = v, "install" }
}

func TestARunThatWaitsSaysHowItNeedNot(t *testing.T) {
	for what, want := range map[string]string{
		"":                               "pve-nvidia-hook apply 101",
		"make room":                      "make room; then at once: pve-nvidia-hook apply 101",
		"see what holds VMID":            "see what holds 101; then at once: pve-nvidia-hook apply 101",
		"the next start does it again":   "pve-nvidia-hook apply 101",
		"pve-nvidia-hook apply 101 does": "pve-nvidia-hook apply 101 does",
	} {
		require.Equal(t, want, AtOnce(what, 101))
	}
	require.Equal(t, "once", Times(1))
}
