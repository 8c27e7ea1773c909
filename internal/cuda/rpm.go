package cuda

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// What is written for dnf and zypper follows their manuals and NVIDIA's own
// .repo files. It is checked by golden files; it has not been seen running.

// rpmRepoID is the repository's name to dnf and zypper.
const rpmRepoID = "pve-nvidia-hook-cuda"

// gpgKey finds the key's file name in NVIDIA's .repo file: it differs from
// distribution to distribution (D42D0685.pub for RHEL 8 and 9, CDF6BA43.pub for RHEL 10).
var gpgKey = lazy.Regexp(`(?m)^gpgkey=(?:\S*/)?([A-Za-z0-9]{4,40}\.pub)\s*$`)

func parseKeyName(repoFile []byte) (string, error) {
	m := gpgKey().FindSubmatch(repoFile)
	if m == nil {
		return "", errors.New("names no gpgkey")
	}
	return string(m[1]), nil
}

// keyName fetches NVIDIA's .repo file, once for all containers, for the key's name.
func (j *job) keyName(ctx context.Context) (string, error) {
	file := "cuda-" + j.distro.Folder + ".repo"
	data, err := j.cached(ctx, j.repo+file, file, func(data []byte) error {
		_, err := parseKeyName(data)
		return err
	})
	if err != nil {
		return "", err
	}
	return parseKeyName(data)
}

// rpmRepoText is a .repo file for dnf and zypper.
func rpmRepoText(repo, key string, excludes []string) string {
	text := "# Written by pve-nvidia-hook.\n" +
		"[" + rpmRepoID + "]\n" +
		"name=NVIDIA CUDA\n" +
		"baseurl=" + repo + "\n" +
		"enabled=1\n" +
		"gpgcheck=1\n" +
		"gpgkey=" + repo + key + "\n"
	if len(excludes) > 0 {
		text += "# The NVIDIA driver in this container comes from the host's run file.\n" +
			"excludepkgs=" + strings.Join(excludes, ",") + "\n"
	}
	return text
}

// judgeRPM refuses a plan that must not be carried out.
func judgeRPM(p plan, names []string) error {
	if name, ok := firstDriver(append(slices.Clone(p.fresh), p.newer...)); ok {
		return refuseDriver(name, names, "")
	}
	if len(p.remove) > 0 {
		return hint.Errorf("remove them in the container yourself when they are not needed, or ask for other packages",
			"installing %s would remove %s", strings.Join(names, ", "), say.Clean(strings.Join(p.remove, ", "), 300))
	}
	return nil
}

// rpmNames turns name=version, as apt has it, into name-version.
func rpmNames(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.Replace(n, "=", "-", 1)
	}
	return out
}

// rpmInstalled returns which of names are installed.
func (j *job) rpmInstalled(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := j.run(ctx, append([]string{"rpm", "-q", "--qf", "%{NAME}\\n"}, names...)...)
	if err != nil {
		return nil, err
	}
	said := strings.Fields(string(out.stdout)) // of the others: "package X is not installed"
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		at := slices.Index(said, n)
		return at < 0 || (at > 0 && said[at-1] == "package")
	}), nil
}

// must turns a command's bad end into an error.
func must(o output, err error, what string) error {
	if err == nil && o.code != 0 {
		err = hint.Errorf("run it in the container and put right what it says", "%s in the container: %s", what, o.tail(4))
	}
	return err
}
