// Package snippet holds the hookscript that Proxmox VE runs: a few lines of
// shell that hand over to the program and do nothing where it is missing.
package snippet

import (
	_ "embed"
	"path/filepath"
	"strings"
)

// Name is the file's name in a storage's snippets folder.
const Name = "pve-nvidia-hook"

// Env is the variable that tells the program by which file it was called.
const Env = "PVE_NVIDIA_HOOK_SNIPPET"

// Script is the file's content.
//
//go:embed pve-nvidia-hook
var Script []byte

// Chaining is the name of the copy that has another script run after the
// program. So a guest's own configuration says what is chained: clone, restore,
// rollback and migration carry it, and it is gone with the guest.
func Chaining(other string) string { return Name + "+" + other }

// Chained is the script that a file of that name or path has run after the
// program, in the same folder; "" for none.
func Chained(file string) string {
	dir, name := filepath.Split(file)
	if other, ok := strings.CutPrefix(name, Name+"+"); ok && other != "" {
		return dir + other
	}
	return ""
}
