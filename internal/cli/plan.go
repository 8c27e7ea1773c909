package cli

import (
	"cmp"
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

// always are the steps that are the same for all settings, in words.
var always = map[hook.Step]string{
	hook.StepReplace:        "remove the distribution's packages of the driver, when nothing else goes with them",
	hook.StepToolkitRemove:  "remove the CUDA packages that this program has installed",
	hook.StepPackages:       "install packages of the container's distribution that the driver's libraries need",
	hook.StepPackagesRemove: "remove the packages that were installed for the driver and that nothing else needs",
	hook.StepAfter:          "restart services that need the driver and run commands, as configured below [after], and update CDI specifications",
	hook.StepDocker:         "set NVIDIA's Container Toolkit up for Docker and podman",
	hook.StepDockerRemove:   "take back what was set up for Docker and podman",
	hook.StepReboot:         "reboot the container from inside",
}

// inWords says each step of a plan in a sentence. The trace tells the settings
// and facts that it was made for.
func inWords(t hook.Trace, p hook.Plan) []string {
	var words []string
	for _, step := range p.Steps {
		if w := cmp.Or(always[step], stepInWords(t, p, step)); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// stepInWords says what a step does, "" when it does nothing.
func stepInWords(t hook.Trace, p hook.Plan, step hook.Step) string {
	s, c, leaving := t.Settings, t.Facts.Container, t.Phase == hook.PhaseUninstall
	switch step {
	case hook.StepFetch:
		return fmt.Sprintf("take %s from the cache %s, after fetching, verifying and unpacking it if it is not there", cache.FileName(p.Wanted, t.Facts.Host.Arch), s.Cache.Dir)
	case hook.StepShare:
		return fmt.Sprintf("lead the container's programs to the shared driver %s: links, and a file for ldconfig", p.Wanted)
	case hook.StepUninstall:
		if c.SetUp && (leaving || !c.Share) {
			return "take away what leads the container's programs to the shared driver"
		}
		w := "remove the driver that is in the container, without touching kernel modules"
		if c.Share && !leaving {
			w = "see that the shared driver works in the container, then " + w
		}
		return w
	case hook.StepInstall:
		return fmt.Sprintf("run the installer of driver %s in the container (deliver: %s)", p.Wanted, s.Install.Deliver)
	case hook.StepVerify:
		switch {
		case leaving:
			return "check that nothing of a driver is left"
		case c.Share && p.Verify == "files":
			return ""
		case c.Share:
			return fmt.Sprintf("check that nvidia-smi of the shared driver says %s", p.Wanted)
		case p.Verify == "files":
			return "check that every file of the driver is there with its size"
		}
		return fmt.Sprintf("check that every file of the driver is there, and that nvidia-smi says %s", p.Wanted)
	case hook.StepToolkit:
		w := "install " + hook.ToolkitName(s) + " from NVIDIA's repository"
		if s.CUDA.Toolkit != "" {
			w += ", and check nvcc"
		}
		return w
	case hook.StepRecord:
		if leaving {
			return "remove the record"
		}
		return "record in the container what is installed"
	}
	return string(step)
}
