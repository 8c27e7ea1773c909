package pve

import (
	"path"
	"slices"
	"strings"
)

// inits are programs that can be the init of a whole system.
var inits = []string{"init", "systemd", "runit-init", "openrc-init"}

// App is the application that is the container's init, as a container has it that
// Proxmox VE made of an OCI image, or "" where its init is one of a whole system.
// Proxmox writes the image's entrypoint and command to the key entrypoint, and
// nothing for /sbin/init (pve-container 6.1, PVE::LXC::Create::restore_oci_archive).
// A raw lxc.init.cmd line comes after it, and so wins.
func (s Section) App() string {
	cmd := s.Entrypoint
	for _, kv := range s.LXC {
		if kv.Key == "lxc.init.cmd" {
			cmd = kv.Value
		}
	}
	program, _, _ := strings.Cut(strings.TrimSpace(cmd), " ")
	if program == "" || slices.Contains(inits, path.Base(strings.Trim(program, `'"`))) {
		return ""
	}
	return cmd
}
