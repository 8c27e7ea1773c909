package cuda

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// repoBase is where NVIDIA keeps its CUDA repositories.
const repoBase = "https://developer.download.nvidia.com/compute/cuda/repos/"

// repoURL decides where the packages for a container come from: override
// (cuda.repo_url, as internal/config has checked it, with {distro} and {arch}) or
// NVIDIA's folder for its operating system. The result ends with a slash. The Distro
// returned is the one that the URL is for, where that says more than os-release.
func repoURL(o OS, machine, override string) (string, Distro, error) {
	d := FindDistro(o)
	arch, err := repoArch(machine)
	if err != nil {
		return "", d, err
	}
	if override == "" {
		if !d.Served {
			return "", d, notServed(o)
		}
		return repoBase + d.Folder + "/" + arch + "/", d, nil
	}
	u, err := url.Parse(strings.NewReplacer("{distro}", d.Folder, "{arch}", arch).Replace(override))
	if err != nil {
		return "", d, errors.New("cuda.repo_url is not a URL")
	}
	u.Host = strings.ToLower(u.Host)
	u.Path = strings.TrimRight(u.Path, "/") + "/"
	u.RawPath = ""
	const own = "leave cuda.repo_url empty, or set it for this container to a repository made for it"
	for _, part := range strings.Split(u.Path, "/") {
		switch tool := folderTool(part); {
		case slices.Contains([]string{"x86_64", "sbsa"}, part) && part != arch:
			return "", d, hint.Errorf(own, "cuda.repo_url is for %s, the container is %s", part, arch)
		case tool == "" || part == d.Folder:
		case d.Served || tool != d.Tool:
			return "", d, hint.Errorf(own, "cuda.repo_url is for %s, the container is %s (%s)", part, d.Folder, o)
		default: // of the kin of one that NVIDIA does not serve
			d.Folder = part
		}
	}
	if d.Tool == "" {
		return "", d, notServed(o)
	}
	return u.String(), d, nil
}

// sameRepo reports whether two URLs are one repository to apt, which adds the
// slash at the end itself.
func sameRepo(a, b string) bool {
	return tidyURL(a) == tidyURL(b)
}

func tidyURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	return strings.ToLower(u.Scheme+"://"+u.Host) + strings.TrimRight(u.Path, "/")
}
