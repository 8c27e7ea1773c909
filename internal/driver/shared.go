package driver

import (
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// SharedBlockers looks for what keeps a container from using the shared driver:
// less than Blockers, since no installer runs.
func SharedBlockers(c *lxc.Container, arch string) []Blocker {
	if b := libc(c, arch); b != nil {
		return []Blocker{*b}
	}
	var found []Blocker
	if len(Missing(c, "ldconfig")) > 0 {
		found = append(found, Blocker{Reason: "the container has no ldconfig", Hint: "install the package that holds it: libc-bin on Debian, glibc on Fedora"})
	}
	for _, look := range []*Blocker{mounted(c), inTheWay(c, arch)} {
		if look != nil {
			found = append(found, *look)
		}
	}
	return found
}
