package doctor

import (
	"cmp"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
)

// shareChecks look at what the next start of a container needs for the shared driver.
func shareChecks() []check {
	return []check{{
		name: "share", about: "where it is to have the shared driver: this node can share it, and the line that mounts it is right",
		where: ofWanted, run: checkShare,
	}}
}

// shares reports whether the container is to have the shared driver.
func (g guestFacts) shares() bool {
	return g.settings.Install.Deliver == record.ByShare || g.next.Shared()
}

// lookShare looks whether this node can share the driver, and which one it does.
func (g *guestFacts) lookShare() {
	if g.shares() {
		g.shareError = share.Check(g.settings.Paths.Run, g.settings.Cache.Dir)
		g.shared, _ = share.Mounted(g.settings.Paths.Run)
	}
}

func checkShare(h *hostFacts, g *guestFacts, out *findings) {
	if !g.shares() {
		return
	}
	enable := g.enable() + " --share"
	if g.shareError != nil {
		out.add(Problem, hint.Of(g.shareError), "%v", g.shareError)
	}
	if g.guest != nil {
		want := pve.ShareEntry(share.Point(g.settings.Paths.Run), share.Folders(g.settings.Paths.Run), !g.guest.Conf.Unprivileged)
		switch g.next.ShareEntry() {
		case want:
		case "":
			out.add(Problem, enable, "deliver is \"share\" in %s, but no line in its configuration mounts the shared driver", g.settings.Origin("install.deliver"))
		default:
			out.add(Problem, enable, "its line that mounts the shared driver is not the one that enable --share writes")
		}
	}
	switch v := g.shared.Version; {
	case v != "" && (v == h.module || h.module == ""):
		out.orOK("this node shares driver %s", v)
	default:
		out.orOK("its next start makes driver %s ready to share", cmp.Or(string(h.module), "of the host"))
	}
}
