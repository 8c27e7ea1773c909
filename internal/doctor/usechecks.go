package doctor

import (
	"fmt"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/docker"
)

// useChecks look at what uses the driver in a running container.
func useChecks() []check {
	return []check{{
		name: "in-use", about: "its programs use the driver that is installed, not one that was replaced",
		where: inside,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			use := g.inside.use
			for _, h := range use.Old() {
				fix := "restart it in the container, or the container: " + g.restart()
				if unit := h.Restartable(); unit != "" {
					fix = g.exec() + " systemctl restart " + unit
				}
				out.add(Problem, fix, "%s", h)
			}
			if use.Partial != "" {
				out.add(Unknown, "", "whether all programs use the installed driver is not known: %s", use.Partial)
			}
			if use.Looked > 0 {
				out.orOK("no program uses another driver than the installed one")
			}
		},
	}, {
		name: "docker", about: "NVIDIA's Container Toolkit in it fits the driver: CDI specifications, and no-cgroups in an unprivileged container",
		where: inside,
		run: func(_ *hostFacts, g *guestFacts, out *findings) {
			for _, file := range g.inside.staleCDI {
				out.add(Problem, g.exec()+" nvidia-ctk cdi generate --output="+file,
					"the CDI specification %s is of another driver: containers that Docker or podman start by it have no GPU", file)
			}
			if g.inside.noCgroups {
				out.add(Problem, fmt.Sprintf("%s; or docker.toolkit = true below [containers.%d]", docker.NoCgroupsFix, g.vmid),
					"no-cgroups = true is missing in the Container Toolkit's configuration: in an unprivileged container Docker then fails with \"failed to add device rules\"")
			}
			if g.inside.ctk {
				out.orOK("the Container Toolkit fits the driver")
			}
		},
	}}
}
