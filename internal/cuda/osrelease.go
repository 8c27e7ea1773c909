package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// osReleaseLimit bounds what is read of a file that the container owns.
const osReleaseLimit = 64 << 10

// OS is what a container says of its operating system.
type OS struct {
	ID      string   // debian, ubuntu, almalinux
	Like    []string // ID_LIKE
	Version string   // VERSION_ID: 12, 24.04, 9.5; "" for rolling ones
	Name    string   // PRETTY_NAME, fit to print
}

// String names the operating system for a person.
func (o OS) String() string {
	if o.Name != "" {
		return o.Name
	}
	return strings.TrimSpace(o.ID + " " + o.Version)
}

var (
	osKey   = lazy.Regexp(`^[A-Z][A-Z0-9_]*$`)
	osValue = lazy.Regexp(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

// ParseOSRelease reads the text of an os-release file (man 5 os-release). It
// takes the text for hostile: values that are later part of a URL or a path
// hold lower-case letters, digits, dots, dashes and underscores only.
func ParseOSRelease(text []byte) (OS, error) {
	var o OS
	if len(text) > osReleaseLimit {
		return o, fmt.Errorf("os-release has %d bytes, more than %d", len(text), osReleaseLimit)
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || !osKey().MatchString(key) {
			continue // comments, blank lines and rubbish
		}
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			o.ID = value
		case "ID_LIKE":
			o.Like = strings.Fields(value)
		case "VERSION_ID":
			o.Version = value
		case "PRETTY_NAME":
			o.Name = say.Clean(value, 80)
		}
	}
	if !osValue().MatchString(o.ID) {
		return OS{}, fmt.Errorf("os-release has no usable ID line (%q)", say.Clean(o.ID, 40))
	}
	if o.Version != "" && !osValue().MatchString(o.Version) {
		return OS{}, fmt.Errorf("os-release has no usable VERSION_ID (%q)", say.Clean(o.Version, 40))
	}
	return o, nil
}

// readOS reads the container's os-release; man 5 os-release names the two places.
func readOS(c Container) (OS, error) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		text, err := c.ReadFile(name, osReleaseLimit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return OS{}, fmt.Errorf("read %s of the container: %w", name, err)
		}
		o, err := ParseOSRelease(text)
		if err != nil {
			return OS{}, fmt.Errorf("%s of the container: %w", name, err)
		}
		return o, nil
	}
	return OS{}, errors.New("the container has no /etc/os-release")
}
