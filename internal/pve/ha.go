package pve

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// UnderHA reports whether the cluster's HA manager starts and stops a
// container: whether /etc/pve/ha/resources.cfg has a section "ct: 101". root is
// the folder that stands for / ("" is /).
func UnderHA(root string, vmid int) bool {
	f, err := os.Open(at(root, "etc/pve/ha/resources.cfg"))
	if err != nil {
		return false
	}
	defer f.Close()
	raw, err := readBounded(f)
	return err == nil && slices.ContainsFunc(strings.Split(string(raw), "\n"), func(line string) bool {
		return strings.Join(strings.Fields(line), " ") == fmt.Sprintf("ct: %d", vmid)
	})
}
