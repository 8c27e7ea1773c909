package cuda

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// Neither dnf nor zypper has been seen running here: these tests hold what is
// written for them and how their words, as their manuals have them, are read.

const dnf4Plan = `Last metadata expiration check: 0:00:01 ago.
Dependencies resolved.
================================================================================
 Package                 Arch   Version      Repository                    Size
================================================================================
Installing:
 cuda-toolkit-12-8       x86_64 12.8.1-1     pve-nvidia-hook-cuda         3.1 k
Installing dependencies:
 cuda-nvcc-12-8          x86_64 12.8.93-1    pve-nvidia-hook-cuda          68 M
 cuda-toolkit-12-8-config-common
                         noarch 12.8.90-1    pve-nvidia-hook-cuda         7.6 k
 gcc                     x86_64 11.5.0-5.el9 appstream                     32 M
Upgrading:
 libgcc                  x86_64 11.5.0-5.el9 baseos                        84 k
     replacing  libold.x86_64 1.0-1

Transaction Summary
================================================================================
Install  4 Packages
Upgrade  1 Package

Total download size: 3.0 G
Operation aborted.
`

const dnf5Plan = `Updating and loading repositories:
Repositories loaded.
Package                  Arch   Version    Repository              Size
Installing:
 cuda-toolkit-12-8       x86_64 12.8.1-1   pve-nvidia-hook-cuda 3.1 KiB
Installing dependencies:
 nvidia-driver-cuda-libs x86_64 3:570.1-1  rpmfusion            3.1 KiB
Removing:
 old                     x86_64 1-1        @System              1.0 KiB

Transaction Summary:
 Installing:        2 packages
 Removing:          1 package

Operation aborted by the user.
`

const zypperPlan = `<?xml version='1.0'?>
<stream>
<message type="info">Loading repository data...</message>
<install-summary download-size="3000000000" space-usage-diff="7000000000" packages-to-change="2">
<to-install>
<solvable type="package" name="cuda-toolkit-12-8" edition="12.8.1-1" arch="x86_64" summary="CUDA Toolkit 12.8 meta-package">
<description>Meta-package of all that is &quot;CUDA&quot;.</description></solvable>
<solvable type="package" name="cuda-nvcc-12-8" edition="12.8.93-1" arch="x86_64" repository="NVIDIA CUDA"/>
</to-install>
<to-upgrade>
<solvable type="package" name="libgcc_s1" edition="14" edition-old="13" arch="x86_64"/>
</to-upgrade>
<to-remove><solvable type="package" name="old" edition="1" arch="x86_64"/></to-remove>
</install-summary>
</stream>
`

func TestRpmPlansAreRead(t *testing.T) {
	require.Equal(t, plan{
		fresh: []string{"cuda-toolkit-12-8", "cuda-nvcc-12-8", "cuda-toolkit-12-8-config-common", "gcc"},
		newer: []string{"libgcc"},
	}, parseDnf(dnf4Plan))
	p := parseDnf(dnf5Plan)
	require.Equal(t, plan{fresh: []string{"cuda-toolkit-12-8", "nvidia-driver-cuda-libs"}, remove: []string{"old"}}, p)
	require.ErrorContains(t, judgeRPM(p, []string{"x"}), "driver package nvidia-driver-cuda-libs")
	require.True(t, parseDnf("Nothing to do.\n").empty())

	p = parseZypper(zypperPlan)
	require.Equal(t, plan{fresh: []string{"cuda-toolkit-12-8", "cuda-nvcc-12-8"}, newer: []string{"libgcc_s1"}, remove: []string{"old"}}, p)
	require.ErrorContains(t, judgeRPM(p, []string{"x"}), "would remove old")
	require.True(t, parseZypper("<stream/>").empty())

	key, err := parseKeyName([]byte("[cuda-rhel9-x86_64]\nname=cuda-rhel9-x86_64\nbaseurl=https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64\nenabled=1\ngpgcheck=1\ngpgkey=https://developer.download.nvidia.com/compute/cuda/repos/rhel9/x86_64/D42D0685.pub\n"))
	require.NoError(t, err)
	require.Equal(t, "D42D0685.pub", key)
	_, err = parseKeyName([]byte("<html>gpgkey=</html>"))
	require.Error(t, err)
}

// rpmWorld answers dnf, zypper, rpm and nvcc as on a machine where all goes well.
func rpmWorld(c *folder) func(args []string) lxc.Result {
	return func(args []string) lxc.Result {
		line := strings.Join(args, " ")
		switch {
		case strings.Contains(line, "repoquery"):
			return says("cuda-toolkit-12-8 12.8.1\ncuda-toolkit-13-0 13.0.2\n")
		case strings.Contains(line, "search"):
			return says(`<solvable kind="package" name="cuda-toolkit-12-8" edition="12.8.1-1" status="not-installed"/>` + "\n")
		case strings.Contains(line, "dnf install --assumeno"):
			return lxc.Result{Code: 1, Stdout: []byte(strings.Split(dnf4Plan, "Upgrading")[0])}
		case strings.Contains(line, "dnf autoremove"):
			return lxc.Result{Code: 1, Stdout: []byte("Removing unused dependencies:\n cuda-toolkit-12-8 x\n cuda-nvcc-12-8 x\n users-own x\n\n")}
		case strings.Contains(line, "install --dry-run"):
			return says(strings.Split(zypperPlan, "<to-upgrade>")[0])
		case strings.Contains(line, " install "):
			c.set("/usr/local/cuda-12.8/bin/nvcc", "program")
			return lxc.Result{}
		case strings.HasSuffix(line, "nvcc --version"):
			return says("Cuda compilation tools, release 12.8, V12.8.93\n")
		case args[0] == "rpm":
			for _, before := range c.ran[:len(c.ran)-1] {
				if strings.Contains(before, " remove ") && !strings.Contains(before, "--dry-run") {
					return lxc.Result{Code: 1}
				}
			}
			return says(strings.Join(args[4:], "\n") + "\n")
		}
		return lxc.Result{}
	}
}

func TestWhatIsWrittenForDnfAndZypper(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".repo") {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte("[cuda]\ngpgkey=https://example.org/D42D0685.pub\n"))
	}))
	defer server.Close()
	for name, release := range map[string]string{
		"rhel9":      "ID=\"almalinux\"\nVERSION_ID=\"9.5\"\n",
		"fedora42":   "ID=fedora\nVERSION_ID=42\n",
		"opensuse15": "ID=\"opensuse-leap\"\nVERSION_ID=\"15.6\"\n",
		"suse16":     "ID=\"sles\"\nVERSION_ID=\"16.0\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := newFolder(t, map[string]string{"/etc/os-release": release})
			c.script = rpmWorld(c)
			w := Want{Toolkit: "12.8", Packages: []string{"nvtop"}, RepoURL: server.URL + "/{distro}/{arch}/", Driver: "580.95.05", Arch: "x86_64",
				CacheDir: t.TempDir(), Timeout: time.Minute, step: time.Millisecond}
			in, err := Install(t.Context(), c, w, &logged{t: t})
			require.NoError(t, err)
			require.Equal(t, "12.8.93", in.Version)
			ok, why := Current(c, in, w)
			require.True(t, ok, why)

			var text strings.Builder
			for _, f := range in.Files {
				text.WriteString("== " + f.Path + "\n" + c.text(f.Path))
			}
			text.WriteString("== install\n" + strings.Join(c.ran, "\n") + "\n")
			c.ran = nil
			left, err := Remove(t.Context(), c, in, w, &logged{t: t})
			require.NoError(t, err)
			require.True(t, left.Empty())
			for _, f := range in.Files {
				require.NoFileExists(t, c.root+f.Path)
			}
			text.WriteString("== remove\n" + strings.Join(c.ran, "\n") + "\n")
			golden(t, name+".golden", strings.ReplaceAll(text.String(), server.URL, "REPO"))
			require.False(t, slices.ContainsFunc(c.ran, func(s string) bool { return strings.Contains(s, "remove") && strings.Contains(s, "users-own") }))
		})
	}
}

func TestAPackageOfAGivenVersionIsRemovedWithTheRest(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("gpgkey=https://example.org/D42D0685.pub\n"))
	}))
	defer server.Close()
	for _, release := range []string{"ID=fedora\nVERSION_ID=42\n", "ID=sles\nVERSION_ID=15.6\n"} {
		c := newFolder(t, map[string]string{"/etc/os-release": release})
		usual := rpmWorld(c)
		c.script = func(args []string) lxc.Result {
			res := usual(args)
			res.Stdout = []byte(strings.ReplaceAll(string(res.Stdout), "cuda-nvcc-12-8", "nvtop"))
			return res
		}
		w := Want{Toolkit: "12.8", Packages: []string{"nvtop=3.0"}, RepoURL: server.URL + "/", Driver: "580.95.05", Arch: "x86_64", CacheDir: t.TempDir()}
		in, err := Install(t.Context(), c, w, &logged{t: t})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"cuda-toolkit-12-8", "nvtop"}, in.Asked)

		log := &logged{t: t}
		w.Had, c.ran = in, nil
		in, err = Install(t.Context(), c, w, log)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"cuda-toolkit-12-8", "nvtop"}, in.Asked, "it is still wanted")
		require.False(t, log.has("stays in the container"))
		require.NotContains(t, strings.Join(c.ran, "\n"), "dnf mark")

		c.ran = nil
		left, err := Remove(t.Context(), c, in, w, &logged{t: t})
		require.NoError(t, err)
		require.True(t, left.Empty())
		require.Regexp(t, `(?m) remove .*\bnvtop\b`, strings.Join(c.ran, "\n"))
	}
}

func TestWhatZypperOnlyInformsOfIsNoFailure(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("gpgkey=https://example.org/D42D0685.pub\n"))
	}))
	defer server.Close()
	for code, c := range map[int]struct{ verb, says, err string }{
		102: {" install ", "", ""},
		103: {" install ", "", ""},
		104: {" search ", "", "it has none"},
		105: {" install ", "", "zypper install"},
		106: {" refresh ", "skipped a repository", ""},
		107: {" install ", "a package's script failed", ""},
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			container := newFolder(t, map[string]string{"/etc/os-release": "ID=\"opensuse-leap\"\nVERSION_ID=\"15.6\"\n"})
			usual := rpmWorld(container)
			container.script = func(args []string) lxc.Result {
				res := usual(args)
				if strings.Contains(strings.Join(args, " "), c.verb) {
					res.Code = code
				}
				return res
			}
			log := &logged{t: t}
			in, err := Install(t.Context(), container, Want{Toolkit: "12.8", RepoURL: server.URL + "/", Driver: "580.95.05", Arch: "x86_64", CacheDir: t.TempDir()}, log)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "12.8.93", in.Version)
			require.True(t, log.has(c.says))
		})
	}
}

func TestRpmDriverPackagesAreRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("gpgkey=https://example.org/D42D0685.pub\n"))
	}))
	defer server.Close()
	c := newFolder(t, map[string]string{"/etc/os-release": "ID=fedora\nVERSION_ID=42\n"})
	usual := rpmWorld(c)
	c.script = func(args []string) lxc.Result {
		if slices.Contains(args, "--assumeno") {
			return lxc.Result{Code: 1, Stdout: []byte(dnf5Plan)}
		}
		return usual(args)
	}
	_, err := Install(t.Context(), c, Want{Toolkit: "12.8", RepoURL: server.URL + "/", Driver: "580.95.05", Arch: "x86_64", CacheDir: t.TempDir()}, &logged{t: t})
	require.ErrorContains(t, err, "driver package nvidia-driver-cuda-libs")
	require.NotEmpty(t, hint.Of(err))
	for _, line := range c.ran {
		require.NotContains(t, line, "dnf install -y")
	}
}

func TestWhatIsWrittenForApt(t *testing.T) {
	golden(t, "apt.golden", "== "+pinFile+"\n"+pinText()+"== "+profileFile+"\n"+profileText("12.8"))
}
