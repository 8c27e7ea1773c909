package cli

import (
	"fmt"
	"io"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// printPlan says in words what a run would do.
func printPlan(out io.Writer, t hook.Trace) {
	fmt.Fprintf(out, "container %d: %s\n", t.VMID, say.Clean(t.Plan.Why, 500))
	words := inWords(t, t.Plan)
	if len(words) == 0 {
		fmt.Fprintln(out, "nothing would be done")
		return
	}
	fmt.Fprintln(out, "this would be done:")
	for i, w := range words {
		fmt.Fprintf(out, "  %d. %s\n", i+1, say.Clean(w, 500))
	}
}

// inWords says each step of a plan in a sentence. The trace tells the settings
// and facts that it was made for.
func inWords(t hook.Trace, p hook.Plan) []string {
	s, arch := t.Settings, t.Facts.Host.Arch
	there := t.Facts.Container.Recorded
	if there == "" && t.Facts.Deep != nil {
		there = t.Facts.Deep.Found.Version()
	}
	old := "what is left of another driver"
	if there != "" {
		old = "driver " + string(there)
	}
	leaving, c := t.Phase == hook.PhaseUninstall, t.Facts.Container
	var words []string
	for _, step := range p.Steps {
		var w string
		switch step {
		case hook.StepFetch:
			w = fmt.Sprintf("take %s from the cache %s, after fetching, verifying and unpacking it if it is not there", cache.FileName(p.Wanted, arch), s.Cache.Dir)
		case hook.StepReplace:
			w = "remove the distribution's packages of the driver, when nothing else goes with them"
		case hook.StepShare:
			w = fmt.Sprintf("lead the container's programs to the shared driver %s: links, and a file for ldconfig", p.Wanted)
		case hook.StepUninstall:
			w = "remove " + old + " from the container, without touching kernel modules"
			switch {
			case c.SetUp && (leaving || !c.Share):
				w = "take away what leads the container's programs to the shared driver"
			case c.Share && !leaving:
				w = "see that the shared driver works in the container, then " + w
			}
		case hook.StepInstall:
			w = fmt.Sprintf("run the installer of driver %s in the container (%s)", p.Wanted, delivery(s.Install.Deliver))
		case hook.StepVerify:
			switch {
			case leaving:
				w = "check that nothing of a driver is left"
			case c.Share && p.Verify == "files":
				continue
			case c.Share:
				w = fmt.Sprintf("check that nvidia-smi of the shared driver says %s", p.Wanted)
			case p.Verify == "files":
				w = "check that every file of the driver is there with its size"
			default:
				w = fmt.Sprintf("check that every file of the driver is there, and that nvidia-smi says %s", p.Wanted)
			}
		case hook.StepToolkit:
			w = "install " + hook.ToolkitName(s) + " from NVIDIA's repository"
			if s.CUDA.Toolkit != "" {
				w += ", and check nvcc"
			}
		case hook.StepToolkitRemove:
			w = "remove the CUDA packages that this program has installed"
		case hook.StepPackages:
			w = "install packages of the container's distribution that the driver's libraries need"
		case hook.StepPackagesRemove:
			w = "remove the packages that were installed for the driver and that nothing else needs"
		case hook.StepAfter:
			w = "restart services that need the driver and run commands, as configured below [after], and update CDI specifications"
		case hook.StepDocker:
			w = "set NVIDIA's Container Toolkit up for Docker and podman"
		case hook.StepDockerRemove:
			w = "take back what was set up for Docker and podman"
		case hook.StepReboot:
			w = "reboot the container from inside"
		case hook.StepRecord:
			w = "record in the container what is installed"
			if leaving {
				w = "remove the record"
			}
		default:
			w = string(step)
		}
		words = append(words, w)
	}
	return words
}

func delivery(deliver string) string {
	switch deliver {
	case "mount":
		return "from a read-only mount of the unpacked run file"
	case "push":
		return "from a copy of the run file"
	}
	return "from a read-only mount of the unpacked run file, or a copy where that is not possible"
}
