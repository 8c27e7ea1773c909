package hook

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/docker"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// ToolkitMissing says why the wanted CUDA toolkit is not in a container, whose
// record is in, or "" when it is, or none is wanted. A toolkit that is no longer
// wanted stays until it is uninstalled. No process is started.
func ToolkitMissing(c *lxc.Container, in *record.Installed, s config.Settings, wanted version.Driver, arch string) string {
	w := cudaWant(s, wanted, arch)
	if w.None() {
		return ""
	}
	had, err := recordedToolkit(in)
	if err != nil {
		return err.Error()
	}
	if ok, why := cuda.Current(c, had, w); !ok {
		return why
	}
	return ""
}

func recordedToolkit(in *record.Installed) (cuda.Installed, error) {
	if in == nil {
		return cuda.Installed{}, nil
	}
	return recorded[cuda.Installed](in.Toolkit)
}

func (w *work) toolkitMissing(wanted version.Driver) string {
	return ToolkitMissing(w.container, w.installed, w.Settings, wanted, w.trace.Facts.Host.Arch)
}

// ToolkitName says what is wanted of NVIDIA's repository, "" when nothing is.
func ToolkitName(s config.Settings) string {
	if w := cudaWant(s, "", ""); !w.None() {
		return w.Name()
	}
	return ""
}

func cudaWant(s config.Settings, wanted version.Driver, arch string) cuda.Want {
	packages := s.CUDA.Packages
	if s.Docker.Toolkit && !slices.Contains(packages, docker.Package) {
		packages = append(slices.Clone(packages), docker.Package)
	}
	return cuda.Want{
		Toolkit:  s.CUDA.Toolkit,
		Packages: packages,
		RepoURL:  s.CUDA.RepoURL,
		Driver:   wanted,
		Arch:     arch,
		Timeout:  2 * s.Install.Timeout,
	}
}

// toolkit installs the wanted CUDA toolkit in the container. The record is written
// after each part, so that the next run and uninstall know what a killed run has
// installed.
func (w *work) toolkit(ctx context.Context) (string, error) {
	want := cudaWant(w.Settings, w.trace.Plan.Wanted, w.trace.Facts.Host.Arch)
	want.Proxy = proxy(w.HostRoot, w.log)
	had, err := recordedToolkit(&w.next)
	if err != nil {
		w.log.Warnf("%v; it is set up again", err)
	}
	want.Had = had
	if want.Toolkit == cudapkg.Auto && w.trace.Plan.Verify == "nvidia-smi" {
		// nvidia-smi has named the driver's version before: it works.
		if want.Capability, err = driver.Capability(ctx, w.container); err != nil {
			w.log.Debugf("%v", err)
		}
	}
	want.Save = w.saveToolkit
	in, err := cuda.Install(ctx, w.container, want, w.log)
	if saved := w.saveToolkit(in); saved != nil && err == nil {
		err = saved
	}
	if err != nil {
		return "", fmt.Errorf("the driver is fine, %s is not: %w", want.Name(), err)
	}
	var parts []string
	if in.Release != "" {
		parts = append(parts, "CUDA toolkit "+in.Release+" (nvcc "+in.Version+")")
	}
	if len(in.Packages) > 0 {
		parts = append(parts, strings.Join(in.Packages, ", "))
	}
	return strings.Join(parts, " and ") + " installed", nil
}

func (w *work) saveToolkit(in cuda.Installed) error { return w.save(&w.next.Toolkit, in) }

// proxy is the proxy for downloads that Proxmox VE's datacenter.cfg names.
func proxy(hostRoot string, log say.Log) string {
	proxy, err := pve.HTTPProxy(hostRoot)
	if err != nil {
		log.Warnf("%v", err)
	}
	return proxy
}
