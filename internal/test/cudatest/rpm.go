package cudatest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Programs are what WriteRPM needs besides gpg.
var Programs = []string{"rpmbuild", "rpmsign", "createrepo_c"}

// WriteRPM fills dir with an rpm repository of packages, signed with key, as
// NVIDIA has them: key file and .repo file (cuda-DISTRO.repo) lie in it.
// One rpmbuild makes all packages.
func WriteRPM(ctx context.Context, dir, distro string, key *Key, packages []Package) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer key.stopAgent()
	build := filepath.Join(key.home, "rpm")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(build)
	spec := filepath.Join(build, "all.spec")
	if err := os.WriteFile(spec, []byte(specOf(packages)), 0o644); err != nil {
		return err
	}
	if err := command(ctx, "rpmbuild", "-bb", "--quiet", "--target", "noarch", "--define", "_topdir "+build, "--define", "_rpmdir "+dir,
		"--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", "--define", "_dbpath "+build+"/db", spec); err != nil {
		return err
	}
	if err := key.SignRPM(ctx, dir); err != nil {
		return err
	}
	const keyFile = "D42D0685.pub"
	public, err := key.gpg(ctx, nil, "--armor", "--export")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		keyFile:                    string(public),
		"cuda-" + distro + ".repo": "[cuda-" + distro + "-x86_64]\nname=cuda\nenabled=1\ngpgcheck=1\ngpgkey=https://developer.download.nvidia.com/" + keyFile + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// SignRPM signs all packages of a folder and makes its index, signed as well.
func (k *Key) SignRPM(ctx context.Context, dir string) error {
	defer k.stopAgent()
	files, err := filepath.Glob(filepath.Join(dir, "*.rpm"))
	if err != nil {
		return err
	}
	if err := command(ctx, "rpmsign", append([]string{"--addsign", "--define", "_gpg_name nobody@example.org", "--define", "_gpg_path " + k.home, "--define", "__gpg /usr/bin/gpg"}, files...)...); err != nil {
		return err
	}
	if err := command(ctx, "createrepo_c", "--quiet", dir); err != nil {
		return err
	}
	index := filepath.Join(dir, "repodata/repomd.xml")
	_ = os.Remove(index + ".asc")
	_, err = k.gpg(ctx, nil, "--armor", "--detach-sign", "--output", index+".asc", index)
	return err
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// specOf is one spec file for all packages: each is a subpackage of one that is not built.
func specOf(packages []Package) string {
	var head, install, files strings.Builder
	for _, p := range packages {
		version, release, _ := strings.Cut(p.Version, "-")
		if release == "" {
			release = "1"
		}
		fmt.Fprintf(&head, "%%package -n %s\nSummary: stands for a package of NVIDIA's\nVersion: %s\nRelease: %s\n", p.Name, version, release)
		for _, d := range strings.Split(p.Depends, ",") {
			if d = strings.NewReplacer("(", "", ")", "").Replace(strings.TrimSpace(d)); d != "" {
				head.WriteString("Requires: " + d + "\n")
			}
		}
		if p.Obsoletes != "" {
			head.WriteString("Obsoletes: " + p.Obsoletes + "\n")
		}
		fmt.Fprintf(&head, "%%description -n %s\nA package.\n", p.Name)
		fmt.Fprintf(&files, "%%files -n %s\n", p.Name)
		for _, name := range slices.Sorted(maps.Keys(p.Files)) {
			mode := "0644"
			if slices.Contains(p.Exec, name) {
				mode = "0755"
			}
			fmt.Fprintf(&install, "mkdir -p %%{buildroot}%s\ncat >%%{buildroot}%s <<'END_OF_FILE'\n%sEND_OF_FILE\n", filepath.Dir(name), name, strings.ReplaceAll(p.Files[name], "%", "%%"))
			fmt.Fprintf(&files, "%%attr(%s, root, root) %s\n", mode, name)
		}
		if p.Postinst != "" {
			fmt.Fprintf(&files, "%%post -n %s\n%s\n", p.Name, p.Postinst)
		}
	}
	return `Name: all
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
AutoReqProv: no
%description
x
%define __os_install_post %{nil}
` + head.String() + "%install\n" + install.String() + files.String()
}
