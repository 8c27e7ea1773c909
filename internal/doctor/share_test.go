package doctor

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/share"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// What the next start needs for the shared driver is told also of a container that
// does not run.
func TestTheNextStartHasWhatASharedDriverNeeds(t *testing.T) {
	labtest.Need(t) // the kernel's overlay
	// Nothing is mounted there in a test; only its name counts.
	run := fmt.Sprintf("/run/pve-nvidia-hook-doctor-%d", os.Getpid())
	entry := func(privileged bool) string {
		return pve.ShareEntry(share.Point(run), share.Folders(run), privileged) + "\n"
	}
	for name, c := range map[string]struct{ set, conf, want string }{
		"all is well":   {"", goodConf + entry(false), "101 ok share: its next start makes driver 580.142 ready to share"},
		"not shared":    {"", goodConf, ""},
		"no line":       {"[containers.101]\ndeliver = \"share\"\n", goodConf, "101 problem share: deliver is \"share\" in ROOT/config.toml:2, but no line in its configuration mounts the shared driver | pve-nvidia-hook enable 101 --share"},
		"another kind":  {"", strings.Replace(goodConf, "unprivileged: 1\n", "", 1) + entry(false), "101 problem share: its line that mounts the shared driver is not the one that enable --share writes | pve-nvidia-hook enable 101 --share"},
		"another place": {"", goodConf + strings.Replace(entry(false), run, "/run/other", 1), "writes |"},
		"closed folder": {"CLOSED", goodConf + entry(false), "101 problem share: unprivileged containers cannot mount from"},
		"pinned":        {"[driver]\nversion = \"550.163.01\"\non_mismatch = \"install\"\n", goodConf + entry(false), "101 problem wanted-version: driver 550.163.01 is wanted"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			folder := run
			if c.set == "CLOSED" {
				c.set, folder = "", n.path("run")
				require.NoError(t, os.Mkdir(folder, 0o700))
			}
			n.file("config.toml", fmt.Sprintf("%s\n[cache]\ndir = %q\n[paths]\nstate = %q\nrun = %q\nlxc = %q\n", c.set, n.path("cache"), n.path("state"), folder, n.path("lxc")))
			n.file("etc/pve/nodes/pve1/lxc/101.conf", c.conf)
			said := ""
			for _, f := range n.examine().Findings {
				said += fmt.Sprintf("%d %s %s: %s | %s\n", f.VMID, f.Level, f.Check, f.What, f.Fix)
			}
			if c.want == "" {
				require.NotContains(t, said, " share: ")
				return
			}
			require.Contains(t, said, strings.ReplaceAll(c.want, "ROOT", n.root))
		})
	}
}
