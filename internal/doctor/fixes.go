package doctor

import "fmt"

// The commands that fixes of several checks are made of.

// restart is the command that starts a container anew.
func (g *guestFacts) restart() string { return fmt.Sprintf("pct reboot %d", g.vmid) }

// exec begins a command in a container.
func (g *guestFacts) exec() string { return fmt.Sprintf("pct exec %d --", g.vmid) }

// enable is the command that sets the hookscript.
func (g *guestFacts) enable() string { return fmt.Sprintf("pve-nvidia-hook enable %d", g.vmid) }

// giveGPUs is the command that gives a container its GPUs.
func (g *guestFacts) giveGPUs() string { return g.enable() + " --gpus " + g.gpus() }

// apply is the command for a run on the container. With again it installs the driver
// again, even if the run finds nothing wrong.
func (g *guestFacts) apply(again bool) string {
	if again {
		return fmt.Sprintf("pve-nvidia-hook apply --force %d", g.vmid)
	}
	return fmt.Sprintf("pve-nvidia-hook apply %d", g.vmid)
}
