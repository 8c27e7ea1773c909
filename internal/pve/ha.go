package pve

import (
	"fmt"
	"slices"
	"strings"
)

// UnderHA reports whether the cluster's HA manager starts and stops a
// container: whether /etc/pve/ha/resources.cfg has a section "ct: 101". root is
// the folder that stands for / ("" is /).
func UnderHA(root string, vmid int) bool {
	raw, err := readConfig(at(root, "etc/pve/ha/resources.cfg"))
	return err == nil && slices.ContainsFunc(strings.Split(string(raw), "\n"), func(line string) bool {
		return strings.Join(strings.Fields(line), " ") == fmt.Sprintf("ct: %d", vmid)
	})
}
