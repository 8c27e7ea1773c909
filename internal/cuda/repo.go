package cuda

import (
	"net/url"
	"slices"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// repoBase is where NVIDIA keeps its CUDA repositories.
const repoBase = "https://developer.download.nvidia.com/compute/cuda/repos/"

// repoURL decides where the packages for a container come from: override
// (cuda.repo_url, which may hold {distro} and {arch}) or NVIDIA's folder for its
// operating system. The result ends with a slash. The Distro returned is the
// one that the URL is for, where that says more than os-release.
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
	override = strings.NewReplacer("{distro}", d.Folder, "{arch}", arch).Replace(override)
	u, err := url.Parse(override)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"),
		strings.ContainsAny(override, " \t\r\n[]{}<>\"'\\") || say.Clean(override, 1<<12) != override:
		return "", d, hint.Errorf("give it as https://HOST/PATH/",
			"cuda.repo_url %q is not a URL of a package repository", say.Clean(override, 200))
	case u.User != nil:
		return "", d, hint.Errorf("use a mirror that needs no password, or a proxy that knows it",
			"cuda.repo_url for %s holds a password, which every user of the container could read", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return "", d, hint.Errorf("give it as https://HOST/PATH/", "cuda.repo_url %q has a query or fragment", say.Clean(override, 200))
	}
	u.Host = strings.ToLower(u.Host)
	u.Path = strings.TrimRight(u.Path, "/") + "/"
	u.RawPath = ""
	named := namedFolder(u)
	if named != "" && named != d.Folder {
		// The user may point a container that NVIDIA does not serve at the
		// folder of its kin, never at one with another kind of packages.
		if d.Served || d.Tool == "" || folderTool(named) != d.Tool {
			return "", d, hint.Errorf("leave cuda.repo_url empty, or set it for this container to a repository made for it",
				"cuda.repo_url is for %s, the container is %s (%s)", named, d.Folder, o)
		}
		d.Folder = named
	}
	if other := namedArch(u); other != "" && other != arch {
		return "", d, hint.Errorf("leave cuda.repo_url empty, or set it for this container to a repository made for it",
			"cuda.repo_url is for %s, the container is %s", other, arch)
	}
	if d.Tool == "" {
		return "", d, notServed(o)
	}
	return u.String(), d, nil
}

// namedFolder returns the part of a URL's path that is one of NVIDIA's folder names.
func namedFolder(u *url.URL) string {
	parts := strings.Split(u.Path, "/")
	slices.Reverse(parts)
	for _, part := range parts {
		if folderForm().MatchString(part) && strings.ContainsAny(part, "0123456789") || part == "wsl-ubuntu" {
			return part
		}
	}
	return ""
}

func namedArch(u *url.URL) string {
	for _, part := range strings.Split(u.Path, "/") {
		if slices.Contains([]string{"x86_64", "sbsa", "arm64", "aarch64", "ppc64le"}, part) {
			return part
		}
	}
	return ""
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
