package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Missing says all that the machine lacks for a lab, with what to do as the hint;
// nil when nothing is missing. What else the tests need, packaging/ready looks for.
func Missing() error {
	var lacks, fixes, packages []string
	if os.Geteuid() != 0 {
		lacks, fixes = append(lacks, "containers need root"), append(fixes, "run it as root")
	}
	for _, need := range []struct{ program, pkg string }{
		{"lxc-start", "lxc"}, {"lxc-attach", "lxc"}, {"lxc-info", "lxc"},
		{"newuidmap", "uidmap"}, {"mmdebstrap", "mmdebstrap"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			lacks = append(lacks, fmt.Sprintf("program %s is missing (package %s)", need.program, need.pkg))
			if !slices.Contains(packages, need.pkg) {
				packages = append(packages, need.pkg)
			}
		}
	}
	if len(packages) > 0 {
		fixes = append(fixes, "apt-get install --no-install-recommends "+strings.Join(packages, " "))
	}
	if len(lacks) == 0 {
		return nil
	}
	return hint.Wrap(errors.New(strings.Join(lacks, "; ")), strings.Join(fixes, "; "))
}
