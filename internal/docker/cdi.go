package docker

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/driver"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// CDIFile is where Setup has the specification made, as NVIDIA's guide has it.
const CDIFile = "/etc/cdi/nvidia.yaml"

// cdiDirs are the folders that engines read; /var/run is /run. What stands in the
// second goes before what stands in the first (CDI's SPEC.md).
var cdiDirs = []string{"/etc/cdi", "/run/cdi"}

// A specification of one GPU has some 20 kB.
const (
	maxCDI   = 64      // files of a folder
	cdiLimit = 1 << 20 // bytes of a file
)

// library finds what may be a library with a version in the text of a
// specification, which is YAML or JSON.
var library = lazy.Regexp(`[A-Za-z0-9_/.+-]+\.so\.[0-9.]+`)

// specName is the form of names that are looked at: doctor puts them into a command.
var specName = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.(yaml|yml|json)$`)

// Stale lists CDI specifications of NVIDIA's GPUs in a container that name libraries
// of another driver than the installed one: what they tell an engine to mount is not
// there. No process is started.
func Stale(c Container, installed version.Driver) []string {
	var found []string
	for _, dir := range cdiDirs {
		names, err := c.ReadDir(dir, maxCDI)
		if err != nil {
			continue
		}
		for _, name := range names {
			if !specName().MatchString(name) {
				continue
			}
			file := path.Join(dir, name)
			if text, err := c.ReadFile(file, cdiLimit); err == nil && stale(string(text), installed) {
				found = append(found, file)
			}
		}
	}
	return found
}

func stale(text string, installed version.Driver) bool {
	if !strings.Contains(text, "nvidia.com/gpu") {
		return false
	}
	for _, name := range library().FindAllString(text, 10_000) {
		v := driver.LibraryVersion(name)
		if v != "" && v != installed && path.Base(path.Dir(name)) != "compat" {
			return true
		}
	}
	return false
}

// refreshLimit is for all specifications together: genuine containers have one or two.
var refreshLimit = 2 * ctkLimit

// Refresh replaces the CDI specifications that are of another driver than the installed
// one, also those that others have made, and returns those that it made. The error
// names those that are still stale, and what to do.
func Refresh(ctx context.Context, c Container, installed version.Driver) ([]string, error) {
	var made []string
	var failed []error
	limited, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	all := Stale(c, installed)
	for i, file := range all {
		if limited.Err() != nil {
			failed = append(failed, fmt.Errorf("%d more CDI specifications were not made: the time for all of them, %s, is over", len(all)-i, refreshLimit))
			break
		}
		if !Present(c) {
			failed = append(failed, hint.Errorf("make it anew in the container: nvidia-ctk cdi generate --output="+file,
				"the CDI specification %s is of another driver than %s", file, installed))
			continue
		}
		if err := generate(limited, c, file, installed); err != nil {
			failed = append(failed, err)
			continue
		}
		made = append(made, file)
	}
	return made, errors.Join(failed...)
}

// generate has one specification made. nvidia-ctk writes it in one step, by the form
// that the name ends in.
func generate(ctx context.Context, c Container, file string, installed version.Driver) error {
	_, err := run(ctx, c, ctk, "cdi", "generate", "--output="+file)
	if err == nil {
		if text, rerr := c.ReadFile(file, cdiLimit); rerr != nil {
			err = rerr
		} else if stale(string(text), installed) {
			err = errors.New("it still names libraries of another driver")
		}
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("make the CDI specification %s: %w", file, err), "run it in the container to see all that it says: nvidia-ctk cdi generate --output="+file)
	}
	return nil
}

// makeCDI brings all specifications in line, ours too, and has nvidia-ctk list the
// devices that they name.
func makeCDI(ctx context.Context, c Container, j Job) (made bool, err error) {
	again, err := Refresh(ctx, c, j.Driver)
	if err != nil {
		return false, err
	}
	if !isFile(c, CDIFile) || j.Had.Driver != j.Driver && j.Had.CDI && !slices.Contains(again, CDIFile) {
		made = !isFile(c, CDIFile)
		if err := generate(ctx, c, CDIFile, j.Driver); err != nil {
			return false, err
		}
		again = append(again, CDIFile)
	}
	list, err := run(ctx, c, ctk, "cdi", "list")
	if err == nil && !strings.Contains(list, "nvidia.com/gpu=") {
		err = errors.New("nvidia-ctk cdi list names no GPU")
	}
	if err != nil {
		return made, hint.Wrap(fmt.Errorf("check the CDI specification: %w", err), "see in the container: nvidia-ctk cdi list")
	}
	if len(again) > 0 {
		j.Log.Infof("CDI specification made for driver %s: %s", j.Driver, strings.Join(again, ", "))
	}
	return made, nil
}
