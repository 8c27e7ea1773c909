package cuda

import (
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// pinFile holds cudapkg.DebDriver for apt.
const pinFile = "/etc/apt/preferences.d/pve-nvidia-hook"

// pinText is the content of pinFile: with a negative priority apt installs no
// version of a package, whichever repository has it (man 5 apt_preferences).
func pinText() string {
	return "Explanation: The NVIDIA driver in this container comes from the host's run file.\n" +
		"Explanation: Written by pve-nvidia-hook on the host, whose command uninstall takes it away.\n" +
		"Package: " + strings.Join(cudapkg.DebDriver, " ") + "\n" +
		"Pin: release *\n" +
		"Pin-Priority: -1\n"
}

// firstDriver returns the first of names that belongs to the driver.
func firstDriver(names []string) (string, bool) {
	for _, n := range names {
		if cudapkg.IsDriver(n) {
			return n, true
		}
	}
	return "", false
}

var word = lazy.Regexp(`[a-z0-9][a-z0-9+.:-]+`)

// driverIn finds a driver package's name in what a package tool said when it
// could not work out a transaction. Names behind "Depends:" count first: the
// words before them are the ones that asked for it.
func driverIn(lines []string) (string, bool) {
	for _, l := range lines {
		if _, after, ok := strings.Cut(l, "Depends:"); ok {
			if name, ok := firstDriver(word().FindAllString(after, -1)); ok {
				return trimArch(name), true
			}
		}
	}
	for _, l := range lines {
		if strings.Contains(l, "://") {
			continue // the address of a CUDA repository holds the word cuda
		}
		if name, ok := firstDriver(word().FindAllString(l, -1)); ok {
			return trimArch(name), true
		}
	}
	return "", false
}

func trimArch(name string) string {
	name, _, _ = strings.Cut(strings.TrimRight(name, ".:"), ":")
	return name
}
