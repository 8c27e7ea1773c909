package hook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cuda"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/record"
)

// packagesMissing says why packages of the distribution are still to be installed
// for the driver's libraries, "" when none are.
func packagesMissing(in *record.Installed, s config.Settings) string {
	if !s.Driver.Packages || in == nil || len(in.Lacks) == 0 {
		return ""
	}
	if had, err := recorded[cuda.Installed](in.Packages); err == nil && had.OK && slices.Equal(had.Packages, in.Lacks) {
		return ""
	}
	return "the driver's libraries need packages of the distribution"
}

// lacks notes which packages the driver's libraries need, for packages and for a person.
func (w *work) lacks(names []string, tell bool) {
	w.next.Lacks = names
	if tell && len(names) > 0 && !w.Settings.Driver.Packages {
		w.log.Infof("the driver's libraries for graphics and video need packages that the container lacks: %s; packages = true below [driver] installs them", strings.Join(names, ", "))
	}
}

// packages installs what the driver's libraries lack, from the container's own
// repositories. Like the toolkit it is recorded as it goes.
func (w *work) packages(ctx context.Context) (string, error) {
	if packagesMissing(&w.next, w.Settings) == "" {
		return "", nil
	}
	had, err := recorded[cuda.Installed](w.next.Packages)
	if err != nil {
		w.log.Warnf("%v; that part is ignored", err)
	}
	save := func(in cuda.Installed) error { return w.save(&w.next.Packages, in) }
	in, err := cuda.AddPackages(ctx, w.container, cuda.Want{
		Packages: w.next.Lacks,
		Proxy:    proxy(w.HostRoot, w.log),
		Timeout:  2 * w.Settings.Install.Timeout,
		Had:      had,
		Save:     save,
	}, w.log)
	if saved := save(in); saved != nil && err == nil {
		err = saved
	}
	if err != nil {
		return "", fmt.Errorf("the driver is fine, packages that its libraries need are not there: %w", err)
	}
	return strings.Join(in.Packages, ", ") + " installed for it", nil
}

// removePackages takes away what packages has brought and nothing else needs.
func (w *work) removePackages(ctx context.Context) (string, error) {
	had, err := recorded[cuda.Installed](w.installed.Packages)
	if err != nil {
		return "", err
	}
	want := cuda.Want{Timeout: 2 * w.Settings.Install.Timeout, Save: func(in cuda.Installed) error { return w.save(&w.next.Packages, in) }}
	if _, err := cuda.Remove(ctx, w.container, had, want, w.log); err != nil {
		return "", untouched("packages that came with it cannot be removed", err)
	}
	w.next.Packages = nil
	return "removed the packages that came with the driver", nil
}

// recorded reads a part of a record: a cuda.Installed or a docker.Installed.
func recorded[T any](part json.RawMessage) (T, error) {
	var had, none T
	if len(part) == 0 {
		return none, nil
	}
	if err := json.Unmarshal(part, &had); err != nil {
		return none, fmt.Errorf("read the container's record: %w", err)
	}
	return had, nil
}

// save records what was put into the container, in its part of the record.
func (w *work) save(part *json.RawMessage, in any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("record what was installed: %w", err)
	}
	*part = data
	return record.Write(w.container, w.next)
}
