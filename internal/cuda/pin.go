package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
)

// Where the package tools are told to leave the driver's packages alone. apt
// has a file of its own for it; dnf and zypper have one for all, in which lines
// of ours stand beside those of the user.
const (
	pinFile  = "/etc/apt/preferences.d/pve-nvidia-hook"
	dnfConf  = "/etc/dnf/dnf.conf"
	zyppLock = "/etc/zypp/locks"
)

// mark stands in what is written, so that Unpin finds it in later versions of
// this program too. No package has this name.
const mark = "pve-nvidia-hook"

// pins lists for each package tool its program, the file, and how ours gets in
// and out of the file's text.
var pins = []struct {
	programs []string
	file     string
	add      func(text string) string // text is without ours
	cut      func(text string) string
}{
	{[]string{"/usr/bin/apt-get"}, pinFile, func(string) string { return pinText() }, cutApt},
	{[]string{"/usr/bin/dnf", "/usr/bin/dnf5", "/usr/bin/dnf-3", "/usr/bin/microdnf"}, dnfConf, addDnf, cutDnf},
	{[]string{"/usr/bin/zypper"}, zyppLock, addZypper, cutZypper},
}

// Pin tells the package tools of a container not to install the driver's
// packages from any repository: the driver comes from the host's run file, and
// a package would write over it. It writes files only and starts no process.
// Nothing is done where all is as it should be, or where no such tool is there.
func Pin(c Container) error { return eachPin(c, true) }

// Unpin undoes Pin.
func Unpin(c Container) error { return eachPin(c, false) }

// Pinned reports whether Pin has nothing to do.
func Pinned(c Container) bool {
	for i := range pins {
		if old, text, err := pinned(c, i, true); err != nil || old != text {
			return false
		}
	}
	return true
}

func eachPin(c Container, want bool) error {
	for i, p := range pins {
		old, text, err := pinned(c, i, want)
		switch {
		case err != nil:
			return err
		case text == old:
			continue
		case text == "":
			err = c.Remove(p.file)
		default:
			if err = c.MkdirAll(path.Dir(p.file), 0o755); err == nil {
				err = c.WriteFile(p.file, []byte(text), 0o644)
			}
		}
		if err != nil {
			return fmt.Errorf("keep the driver's packages out of the container: %s: %w", p.file, err)
		}
	}
	return nil
}

// pinned returns the text of a tool's file as it is and as it should be.
func pinned(c Container, i int, want bool) (old, text string, err error) {
	p := pins[i]
	data, err := c.ReadFile(p.file, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("keep the driver's packages out of the container: read %s: %w", p.file, err)
	}
	old = string(data)
	text = p.cut(old)
	if want && slices.ContainsFunc(p.programs, func(name string) bool { _, err := c.Stat(name); return err == nil }) {
		text = p.add(text)
	}
	return old, text, nil
}

// pinText is the content of pinFile: with a negative priority apt installs no
// version of a package, whichever repository has it (man 5 apt_preferences).
func pinText() string {
	return "Explanation: The NVIDIA driver in this container comes from the host's run file.\n" +
		"Explanation: Written by " + mark + " on the host, whose command uninstall takes it away.\n" +
		"Package: " + strings.Join(cudapkg.DebDriver, " ") + "\n" +
		"Pin: release *\n" +
		"Pin-Priority: -1\n"
}

func cutApt(text string) string {
	if strings.Contains(text, "Written by "+mark) {
		return ""
	}
	return text
}

// dnfList is a value of dnf's option excludepkgs, of which later lines that
// begin with a space are a part. In [main] it is for all repositories (man 5 dnf.conf).
func dnfList() string { return mark + "," + strings.Join(cudapkg.RPMDriver, ",") }

func addDnf(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	lines := slices.Collect(strings.Lines(text))
	main := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "[main]" })
	if main < 0 {
		return "[main]\nexcludepkgs=" + dnfList() + "\n" + text
	}
	for i, l := range lines[main+1:] {
		key, _, ok := strings.Cut(l, "=")
		if strings.HasPrefix(l, "[") {
			break
		}
		if ok && strings.TrimSpace(key) == "excludepkgs" {
			return strings.Join(slices.Insert(lines, main+i+2, "    "+dnfList()+"\n"), "")
		}
	}
	return strings.Join(slices.Insert(lines, main+1, "excludepkgs="+dnfList()+"\n"), "")
}

func cutDnf(text string) string {
	var kept strings.Builder
	for l := range strings.Lines(text) {
		if !strings.HasPrefix(l, "excludepkgs="+mark+",") && !strings.HasPrefix(l, "    "+mark+",") {
			kept.WriteString(l)
		}
	}
	rest, main := strings.CutPrefix(kept.String(), "[main]\n")
	if section, _, _ := strings.Cut(rest, "["); main && kept.Len() < len(text) && !strings.Contains(section, "=") {
		return rest // addDnf made the section
	}
	return kept.String()
}

// zyppStanza is a lock as zypper addlock writes it. zypper leaves no comment in
// the file, so that ours are known by their names alone.
func zyppStanza(name string) string {
	return "\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: " + name + "\n"
}

func addZypper(text string) string {
	for _, name := range append([]string{mark}, cudapkg.RPMDriver...) {
		text += zyppStanza(name) + "\n"
	}
	return text
}

// cutZypper takes away locks of ours if the one that marks them is there.
func cutZypper(text string) string {
	stanzas := strings.Split("\n"+text, "\n\n")
	ours := func(names ...string) func(string) bool {
		return func(s string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.TrimSpace(s) == strings.TrimSpace(zyppStanza(n)) })
		}
	}
	if !slices.ContainsFunc(stanzas, ours(mark)) {
		return text
	}
	text = strings.Join(slices.DeleteFunc(stanzas, ours(append(cudapkg.RPMDriver, mark)...)), "\n\n")
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return strings.TrimPrefix(text, "\n")
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
