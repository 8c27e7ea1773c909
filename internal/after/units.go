package after

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/inuse"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// wants are services that are known to want a GPU, by the first word of their unit
// (tdarr of tdarr-node.service and tdarr@1.service) or by a folder or file of their
// command line, without regard to case. One that found no driver when it was started
// leaves no trace of that. The man page of config.toml lists them.
var wants = []string{
	"boinc-client", "comfyui", "containerd", "dcgm", "docker", "emby-server", "embyserver", "fileflows",
	"frigate", "immich-machine-learning", "immich-ml", "invokeai", "jellyfin", "llama-server", "localai",
	"nvidia-dcgm", "nvidia-persistenced", "ollama", "plex media server", "plexmediaserver", "podman",
	"stable-diffusion-webui", "tdarr", "tdarr_node", "tdarr_server", "text-generation-webui", "unmanic", "vllm",
}

// showLimit is for a question to systemd, which takes some 20 ms.
const showLimit = 20 * time.Second

// maxKnown is how many of them are restarted: a genuine container has a handful, and
// a command line does not take any number of names.
const maxKnown = 100

// service is what systemd tells of a unit.
type service struct {
	id, load, state, result string
	exec                    []string
}

// known lists the services that are running, starting or failed, and known to want
// a GPU. At a start of the container that is all since its boot.
func known(ctx context.Context, c Container) ([]string, error) {
	all, err := show(ctx, c, "*.service")
	if err != nil {
		return nil, err
	}
	var units []string
	for _, s := range all {
		if slices.Contains([]string{"active", "activating", "reloading", "failed"}, s.state) && s.wantsGPU() && isService(s.id) && len(units) < maxKnown {
			units = append(units, s.id)
		}
	}
	return units, nil
}

// isService refuses names that systemd allows no unit: what the container's
// systemctl prints is the container's word.
func isService(name string) bool {
	base, ok := strings.CutSuffix(name, ".service")
	return ok && base != "" && len(name) <= 255 && strings.Trim(base, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@\\-") == ""
}

func (s service) wantsGPU() bool {
	id := strings.ToLower(strings.TrimSuffix(s.id, ".service"))
	for _, w := range wants {
		if rest, ok := strings.CutPrefix(id, w); ok && (rest == "" || strings.ContainsRune("-_@", rune(rest[0]))) {
			return true
		}
	}
	for _, program := range s.programs() {
		for name := range strings.SplitSeq(strings.ToLower(program), "/") {
			if slices.Contains(wants, name) {
				return true
			}
		}
	}
	return false
}

// programs are the file that the service executes, and the first two words of its
// command line: python3 and the script, docker and run. systemd prints them as
// { path=FILE ; argv[]=WORDS ; ignore_errors=no ; ... }.
func (s service) programs() []string {
	var all []string
	for _, exec := range s.exec {
		_, file, _ := strings.Cut(exec, "path=")
		file, rest, _ := strings.Cut(file, " ; argv[]=")
		words, _, _ := strings.Cut(rest, " ; ignore_errors=")
		fields := strings.Fields(words)
		all = append(all, file)
		all = append(all, fields[:min(2, len(fields))]...)
	}
	return all
}

// show asks the container's systemd for units, in the order of their names.
func show(ctx context.Context, c Container, names ...string) ([]service, error) {
	args := append([]string{"systemctl", "show", "--no-pager", "--property=Id,LoadState,ActiveState,Result,ExecStart", "--"}, names...)
	res, err := c.Run(ctx, lxc.Cmd{Args: args, Env: []string{"LC_ALL=C"}, Timeout: showLimit, Keep: 4 << 20})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("ask the container's systemd for its services: %w", err)
	}
	return parseShow(string(res.Stdout)), nil
}

// parseShow reads what systemctl show prints: KEY=VALUE lines, a block for each
// unit, an empty line between two. ExecStart may stand there several times.
func parseShow(text string) []service {
	var all []service
	for block := range strings.SplitSeq(text, "\n\n") {
		var s service
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			switch key {
			case "Id":
				s.id = value
			case "LoadState":
				s.load = value
			case "ActiveState":
				s.state = value
			case "Result":
				s.result = value
			case "ExecStart":
				s.exec = append(s.exec, value)
			}
		}
		if s.id != "" {
			all = append(all, s)
		}
	}
	return all
}

// restart restarts units in one call, so that systemd keeps their order, and then
// looks how they are.
func (d *Done) restart(ctx context.Context, c Container, units []string) {
	_, err := c.Run(ctx, lxc.Cmd{Args: append([]string{"systemctl", "restart", "--"}, units...), Env: []string{"LC_ALL=C"}, Timeout: restartLimit})
	if err != nil && ctx.Err() != nil {
		d.Failed = append(d.Failed, "interrupted while services were restarted: "+strings.Join(units, ", "))
		return
	}
	select { // its exit status is nothing: what counts is how they are
	case <-ctx.Done():
	case <-time.After(settle):
	}
	all, err := show(ctx, c, units...)
	if err != nil || len(all) != len(units) {
		d.Failed = append(d.Failed, fmt.Sprintf("it is not known whether they came up again: %s", strings.Join(units, ", ")))
		return
	}
	for i, unit := range units {
		switch s := all[i]; {
		case s.load == "not-found":
			d.Failed = append(d.Failed, unit+" cannot be restarted: there is no such unit")
		case s.state == "active", s.state == "reloading", s.state == "inactive" && s.result == "success":
			d.Restarted = append(d.Restarted, unit)
		case s.state == "deactivating", s.state == "activating" && s.result == "success":
			d.Failed = append(d.Failed, unit+" is still being restarted")
		default:
			d.Failed = append(d.Failed, unit+" did not come up again after its restart")
		}
	}
}

// nested restarts containers of engines in the container that use another driver.
// What they mount is prepared at each start. restartLimit is for all of them.
func (d *Done) nested(ctx context.Context, c Container, use inuse.Use) {
	limited, cancel := context.WithTimeout(ctx, restartLimit)
	defer cancel()
	untried := 0
	for _, h := range use.Old() {
		if h.Nested == "" || h.Unit != "" || h.User != "" || h.Engine != "docker" && h.Engine != "podman" {
			continue
		}
		if limited.Err() != nil {
			untried++
			continue
		}
		res, err := c.Run(limited, lxc.Cmd{Args: []string{h.Engine, "restart", h.Nested}, Env: []string{"HOME=/root", "LC_ALL=C"}, Timeout: restartLimit})
		switch {
		case err != nil:
			d.Failed = append(d.Failed, fmt.Sprintf("%s is not restarted: %v", h.Name(), err))
		case res.Code != 0:
			d.Failed = append(d.Failed, fmt.Sprintf("%s is not restarted: %s", h.Name(), res.LastLine()))
		default:
			d.Restarted = append(d.Restarted, h.Name())
		}
	}
	if untried > 0 {
		d.Failed = append(d.Failed, fmt.Sprintf("%d more containers in it were not restarted: the time for all of them, %s, is over", untried, restartLimit))
	}
}
