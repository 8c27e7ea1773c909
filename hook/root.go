package hook

import "github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"

// NeedsRoot refuses to others what only root can do on a node. Below a folder
// that stands for the host nothing is root's alone.
func NeedsRoot(what, hostRoot string, uid int) error {
	if uid == 0 || hostRoot != "" {
		return nil
	}
	return hint.Errorf("run it as root on the node", "%s needs root: its files and containers belong to root", what)
}
