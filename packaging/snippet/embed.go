// Package snippet holds the hookscript that Proxmox VE runs: a few lines of
// shell that hand over to the program and do nothing where it is missing.
package snippet

import _ "embed"

// Name is the file's name in a storage's snippets folder.
const Name = "pve-nvidia-hook"

// Script is the file's content.
//
//go:embed pve-nvidia-hook
var Script []byte
