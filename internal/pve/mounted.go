package pve

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
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

// ready checks that a storage's folder is there on this node. A network storage
// that is not mounted leaves an empty mount point, and a snippet written there
// would be hidden by the next mount.
func (s Storage) ready(root string) error {
	if s.Mounted == "" {
		return nil
	}
	if s.Disabled && slices.Contains(network, s.Type) {
		return hint.Errorf("name another one, or enable it", "storage %s is disabled: Proxmox VE does not mount it", s.ID)
	}
	var st unix.Statx_t
	path := at(root, s.Mounted)
	if unix.Statx(unix.AT_FDCWD, path, 0, 0, &st) != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return hint.Errorf("look at pvesm status", "storage %s is not mounted at %s", s.ID, path)
	}
	return nil
}
