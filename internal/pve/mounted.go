package pve

import (
	"fmt"
	"strings"
)

// CheckMounted makes sure that a folder does not lie on a storage that is still
// to be mounted. Early at boot /mnt/pve/NAME is an empty folder of the root disk:
// what is written there fills that disk, and the mount hides it later on.
// root is the folder that stands for / ("" is /).
func CheckMounted(root, dir string) error {
	storages, err := ReadStorages(root)
	if err != nil {
		return nil // no node of Proxmox VE, or one whose own tools will complain
	}
	for _, id := range sortedKeys(storages) {
		s := storages[id]
		if s.Mounted == "" || !strings.HasPrefix(dir+"/", strings.TrimRight(s.Mounted, "/")+"/") {
			continue
		}
		if err := s.ready(root); err != nil {
			return fmt.Errorf("use %s: %w", dir, err)
		}
	}
	return nil
}
