package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// daemonFile is Docker's configuration, and runtime the name of NVIDIA's in it.
const (
	daemonFile  = "/etc/docker/daemon.json"
	daemonLimit = 1 << 20 // bytes
	daemonLists = 1000    // objects and lists; each that is nested costs memory when it is written again
	runtime     = "nvidia"
)

// readDaemon returns nil where there is no file.
func readDaemon(c Container) (map[string]any, error) {
	text, err := c.ReadFile(daemonFile, daemonLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Docker's configuration: %w", err)
	}
	if bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) > daemonLists {
		return nil, fmt.Errorf("read Docker's configuration %s: it has more than %d objects and lists", daemonFile, daemonLists)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	conf := map[string]any{}
	if err := d.Decode(&conf); err != nil {
		return nil, hint.Wrap(fmt.Errorf("read Docker's configuration %s: %w", daemonFile, err), "correct it in the container; dockerd --validate checks it")
	}
	return conf, nil
}

func hasRuntime(c Container) bool {
	conf, err := readDaemon(c)
	if err != nil {
		return false
	}
	runtimes, _ := conf["runtimes"].(map[string]any)
	return runtimes[runtime] != nil
}

// addRuntime has nvidia-ctk add the runtime to Docker's configuration where it is
// missing, and Docker read it: a reload ends no container.
func addRuntime(ctx context.Context, c Container) (added bool, err error) {
	if _, err := readDaemon(c); err != nil {
		return false, err
	}
	if hasRuntime(c) {
		return false, nil
	}
	if _, err := run(ctx, c, ctk, "runtime", "configure", "--runtime=docker"); err != nil {
		return false, fmt.Errorf("add NVIDIA's runtime to Docker's configuration: %w", err)
	}
	if !hasRuntime(c) {
		return false, errors.New("add NVIDIA's runtime to Docker's configuration: nvidia-ctk has not added it")
	}
	return true, reload(ctx, c)
}

// removeRuntime takes it out again. One that is Docker's default by now stays, as
// Docker does not start without it.
func removeRuntime(ctx context.Context, c Container) error {
	conf, err := readDaemon(c)
	if err != nil || conf == nil {
		return err
	}
	if conf["default-runtime"] == runtime {
		return hint.Errorf("take default-runtime out of it, and the runtime nvidia", "%s names nvidia as the default runtime, so it is not changed", daemonFile)
	}
	runtimes, _ := conf["runtimes"].(map[string]any)
	if runtimes[runtime] == nil {
		return nil
	}
	if delete(runtimes, runtime); len(runtimes) == 0 {
		delete(conf, "runtimes")
	}
	if len(conf) == 0 {
		err = c.Remove(daemonFile)
	} else {
		var text []byte
		if text, err = json.MarshalIndent(conf, "", "    "); err == nil {
			err = c.WriteFile(daemonFile, append(text, '\n'), 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("take NVIDIA's runtime out of Docker's configuration: %w", err)
	}
	return reload(ctx, c)
}

// reload makes a running dockerd read the runtimes again (dockerd(8), "Configuration
// reload behavior").
func reload(ctx context.Context, c Container) error {
	if info, err := c.Stat("/run/systemd/system"); err != nil || !info.Mode.IsDir() {
		return hint.Errorf("send dockerd a SIGHUP in the container, or reboot it", "Docker's configuration was changed, and the container has no systemd to tell it")
	}
	if state, err := run(ctx, c, "systemctl", "is-active", "docker.service"); err != nil || strings.TrimSpace(state) != "active" {
		return nil // it will read it when it starts
	}
	// Not by systemctl reload: Debian's and Docker's unit have it run /bin/kill, which
	// small containers lack. The name of the option is good for old and new systemd.
	if _, err := run(ctx, c, "systemctl", "kill", "--kill-who=main", "--signal=HUP", "docker.service"); err != nil {
		return hint.Wrap(fmt.Errorf("have Docker read its configuration again: %w", err), "systemctl restart docker in the container")
	}
	return nil
}

// The toolkit's own configuration. Its nvidia-container-cli sets device rules in the
// cgroup of each container that it starts, which the root of an unprivileged
// container may not: "failed to add device rules", unless no-cgroups is true.
const (
	configFile  = "/etc/nvidia-container-runtime/config.toml"
	configLimit = 256 << 10
	section     = "[nvidia-container-cli]"
	noCgroups   = "no-cgroups = true"
)

// NoCgroupsFix is what mends NoCgroupsMissing.
const NoCgroupsFix = "in the container: nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups=true"

// NoCgroupsMissing reports whether a toolkit that is in an unprivileged container
// cannot work there for want of no-cgroups = true. No process is started.
func NoCgroupsMissing(c Container) bool {
	if c.Privileged() || !Present(c) {
		return false
	}
	text, err := c.ReadFile(configFile, configLimit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false // it is not known
	}
	_, at, value := findNoCgroups(string(text))
	return at < 0 || value != "true"
}

var setting = lazy.Regexp(`^\s*(#?)\s*no-cgroups\s*=\s*([a-z]+)`)

// findNoCgroups finds the section and the line of the setting in it, -1 where there
// is none; value is "" where it is commented out. nvidia-ctk could set it too, but
// drops the user's comments.
func findNoCgroups(text string) (head, at int, value string) {
	head, at = -1, -1
	inside := false
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "[") {
			if inside = strings.HasPrefix(trimmed, section); inside {
				head = i
			}
			continue
		}
		m := setting().FindStringSubmatch(line)
		if !inside || m == nil {
			continue
		}
		if m[1] == "" {
			return head, i, m[2]
		}
		at = i
	}
	return head, at, ""
}

// setNoCgroups sets it, or takes it back to its default, and leaves all else.
func setNoCgroups(c Container, on bool) (changed bool, err error) {
	text, err := c.ReadFile(configFile, configLimit)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return false, fmt.Errorf("read the toolkit's configuration: %w", err)
	}
	head, at, value := findNoCgroups(string(text))
	if (value == "true") == on || missing && !on {
		return false, nil
	}
	line := noCgroups
	if !on {
		line = "#no-cgroups = false"
	}
	lines := strings.Split(string(text), "\n")
	switch {
	case at >= 0:
		lines[at] = line
	case head >= 0:
		lines = append(lines[:head+1], append([]string{line}, lines[head+1:]...)...)
	default:
		lines = append(lines, section, line, "")
	}
	if err := c.MkdirAll("/etc/nvidia-container-runtime", 0o755); err != nil {
		return false, fmt.Errorf("write the toolkit's configuration: %w", err)
	}
	if err := c.WriteFile(configFile, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		return false, fmt.Errorf("write the toolkit's configuration: %w", err)
	}
	return true, nil
}
