package cuda

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Whatever else stands in apt's lists, a second key for the repository is seen
// before apt refuses all work because of it.
func FuzzSourceLists(f *testing.F) {
	f.Add("# deb http://no/ /\ndeb http://a/ stable main # said-by=x\ndeb [ arch=amd64 signed-by=/k.gpg ] https://c/ /\ndeb [signed-by=/k.gpg\n")
	f.Add("Types: deb\nURIs: https://a/\n https://b/\nSuites: /\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\nEnabled: no\nURIs: https://d/\n")
	f.Add("deb [signed-by=" + keyringFile + "] " + repoBase + "debian12/x86_64/ /\n")
	f.Add("URIs: https://a/\r\n\r\n\tx\r\nEnabled: no")
	repo := repoBase + "debian12/x86_64/"
	f.Fuzz(func(t *testing.T, text string) {
		for name, entry := range map[string]string{
			sourcesDir + "/a.list":    "\ndeb [arch=amd64 signed-by=/k.gpg] " + repo + " /\n",
			sourcesDir + "/a.sources": "\n\nTypes: deb\nURIs: " + repo + "\nSuites: /\nSigned-By: /k.gpg\n",
		} {
			all := parseSources(name, text)
			require.LessOrEqual(t, len(all), len(text))
			mine := parseSources(name, text+entry)
			require.Equal(t, append(slices.Clone(all), source{name, repo, false}), mine)

			nobody := func(string) bool { return false }
			remarks, err := judgeSources(all, repo, nobody)
			if err != nil {
				requireHarmless(t, err.Error()+hint.Of(err), 4000)
			}
			for _, r := range remarks {
				requireHarmless(t, r, 4000)
			}
			_, err = judgeSources(mine, repo, nobody)
			require.ErrorContains(t, err, "with another key")
		}
	})
}

// A failure of the repository is never taken for success, a bad signature never
// for anything milder, and another repository's failure is no reason to stop,
// whatever reason a server gives.
func FuzzAptUpdate(f *testing.F) {
	const repo = "http://127.0.0.1:40404/debian12/x86_64/"
	for _, text := range []string{
		"Get:1 http://127.0.0.1:40404/debian12/x86_64  InRelease [1234 B]\nReading package lists...",
		"Err:1 http://127.0.0.1:40404/debian12/x86_64  InRelease\n  Could not connect to 127.0.0.1:40404 (127.0.0.1). - connect (111: Connection refused)\nW: Some index files failed to download. They have been ignored, or old ones used instead.",
		"W: GPG error: http://127.0.0.1:40404/debian12/x86_64  InRelease: NO_PUBKEY 0123\nE: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.",
		"Error: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.",
		"E: Could not get lock /var/lib/apt/lists/lock. It is held by process 12 (apt-get)\nE: Unable to lock directory /var/lib/apt/lists/",
		"E: Conflicting values set for option Signed-By regarding source http://127.0.0.1:40404/debian12/x86_64/ /: a != b\nE: The list of sources could not be read.",
		"W: Target Packages (Packages) is configured multiple times in a:1 and b:1 http://127.0.0.1:40404/debian12/x86_64",
		"Ign:1 http://other/debian x\nErr:2 http://other/debian x\n  404  Not Found",
	} {
		f.Add(uint8(0), text, "404  Not Found [IP: 127.0.0.1 40404]", uint16(0))
		f.Add(uint8(100), text, "File has unexpected size (8 != 9). Mirror sync in progress?", uint16(3))
	}
	f.Add(uint8(0), "", "404  it is configured multiple times", uint16(0))
	f.Add(uint8(0), "", "404  Some index files failed", uint16(0))
	f.Add(uint8(0), "", "404  Could not get lock", uint16(0))
	f.Add(uint8(0), "", "404  Conflicting values set for option Signed-By", uint16(0))
	f.Fuzz(func(t *testing.T, code uint8, text, reason string, at uint16) {
		lines := strings.Split(text, "\n")
		reason, _, _ = strings.Cut(reason, "\n")
		verdictOf := func(code int, more ...string) verdict {
			all := slices.Insert(slices.Clone(lines), int(at)%(len(lines)+1), more...)
			v, about, _ := judgeUpdate(code, all, repo)
			require.Equal(t, v == fine, about == "", "%v", all)
			return v
		}
		v := verdictOf(int(code))
		for _, e := range []string{"W", "E", "Warning", "Error"} {
			require.NotEqual(t, fine, verdictOf(int(code), e+": Failed to fetch "+repo+"InRelease  "+reason))
		}
		require.NotEqual(t, fine, verdictOf(int(code), "Err:3 http://127.0.0.1:40404/debian12/x86_64  InRelease", "  "+reason))
		for _, said := range []string{
			"E: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.",
			"W: GPG error: http://127.0.0.1:40404/debian12/x86_64  InRelease: The following signatures were invalid: BADSIG " + reason,
			"W: OpenPGP signature verification failed: http://127.0.0.1:40404/debian12/x86_64  InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: " + reason,
		} {
			require.Contains(t, []verdict{badKey, lockedOut, toolFailed}, verdictOf(int(code), said))
		}
		if !strings.Contains(reason, "127.0.0.1:40404") {
			require.Equal(t, verdictOf(0), verdictOf(0, "W: Failed to fetch http://other.example/debian/InRelease  "+reason))
			require.Equal(t, verdictOf(0), verdictOf(0, "Get:9 http://other.example/debian  InRelease [1 B]", "Err:10 http://other.example/debian  Release", "  "+reason, "Get:11 x"))
		}
		if v == fine && code != 0 {
			// Others' failures are what that status stands for, else it is not known for what.
			_, _, others := judgeUpdate(int(code), lines, repo)
			require.NotEmpty(t, others)
		}
	})
}

// No number that apt prints makes the need of a disk look smaller than it is.
func FuzzAptSizes(f *testing.F) {
	f.Add("Need to get 0 B of archives.\nAfter this operation, 1,024 B disk space will be freed.\n", uint32(3012), uint32(7702), uint8(2))
	f.Add("  Download size: 512 kB\n  Space needed: 14.3 MB / 20 GB available\n", uint32(0), uint32(1), uint8(9))
	f.Add("Need to get "+strings.Repeat("9", 400)+" TB of\nAfter this operation, 99,999,999,999 TB of additional", uint32(1), uint32(1), uint8(3))
	f.Add("Need to get 1.2.3 GB\nAfter this operation, ., kB of additional", uint32(1), uint32(1), uint8(4))
	f.Fuzz(func(t *testing.T, text string, get, use uint32, how uint8) {
		fetch, disk := parseRoom(text)
		require.LessOrEqual(t, fetch, uint64(1e18))
		require.LessOrEqual(t, disk, uint64(1e18), "the sum of both must not overflow")

		unit := []string{"B", "kB", "MB", "GB"}[how%4]
		size := []uint64{1, 1e3, 1e6, 1e9}[how%4]
		commas := func(n uint32) string {
			s := fmt.Sprint(n)
			for i := len(s) - 3; i > 0; i -= 3 {
				s = s[:i] + "," + s[i:]
			}
			return s
		}
		said := fmt.Sprintf("Need to get %s %s/9,999 TB of archives.\nAfter this operation, %s %s of additional disk space will be used.\n", commas(get), unit, commas(use), unit)
		if how&4 != 0 {
			said = fmt.Sprintf("  Download size: %d %s / 9,999 TB\n  Space needed: %d %s / 1 TB available\n", get, unit, use, unit)
			text = "" // apt says it in one way or the other
		}
		fetch, disk = parseRoom(said + text)
		require.Equal(t, [2]uint64{uint64(get) * size, uint64(use) * size}, [2]uint64{fetch, disk})
	})
}

// The key's name comes from a server, and goes into a file that dnf and zypper
// believe.
func FuzzKeyName(f *testing.F) {
	const repo = repoBase + "rhel9/x86_64/"
	f.Add([]byte("[cuda-rhel9-x86_64]\nname=cuda-rhel9-x86_64\nbaseurl=" + repo + "\nenabled=1\ngpgcheck=1\ngpgkey=" + repo + "D42D0685.pub\n"))
	f.Add([]byte("gpgkey=CDF6BA43.pub\r\n"))
	f.Add([]byte("gpgkey=https://x/RPM-GPG-KEY.pub\n"))
	f.Add([]byte("gpgkey=https://x/" + strings.Repeat("A", 50) + ".pub\n"))
	form := regexp.MustCompile(`^[A-Za-z0-9]{4,40}\.pub$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKeyName(text)
		if err != nil {
			return
		}
		require.True(t, form.MatchString(key), "%q", key)
		whole := slices.ContainsFunc(strings.Split(string(text), "\n"), func(line string) bool {
			value, ok := strings.CutPrefix(strings.TrimSpace(line), "gpgkey=")
			return ok && value[strings.LastIndexByte(value, '/')+1:] == key
		})
		require.True(t, whole, "%q is but a part of the name", key)
		again, err := parseKeyName([]byte(rpmRepoText(repo, key)))
		require.NoError(t, err)
		require.Equal(t, key, again)
		require.Equal(t, strings.Count(rpmRepoText(repo, "D42D0685.pub"), "\n"), strings.Count(rpmRepoText(repo, key), "\n"))
		_, err = url.Parse(repo + key)
		require.NoError(t, err)
	})
}

// What nvcc prints is recorded, and shown when it is not what was installed.
func FuzzNvcc(f *testing.F) {
	const nvcc = "nvcc: NVIDIA (R) Cuda compiler driver\nCopyright (c) 2005-2022 NVIDIA Corporation\nBuilt on Wed_Sep_21_10:33:58_PDT_2022\nCuda compilation tools, release %s, V%s\nBuild cuda_11.8.r11.8/compiler.31833905_0\n"
	f.Add([]byte(fmt.Sprintf(nvcc, "11.8", "11.8.89")), uint8(12), uint8(8))
	f.Add([]byte("release "+strings.Repeat("1", 500)+".1, V1"), uint8(13), uint8(0))
	f.Add([]byte("release 1.1, V\u200f\x1b[2J\xff"), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, major, minor uint8) {
		release, full, err := parseNvcc(text)
		if err != nil {
			requireHarmless(t, err.Error(), 2000)
		} else {
			requireHarmless(t, release, 10)
			requireHarmless(t, full, 200)
			require.True(t, Installed{Version: full}.sane(), "the record would not be believed")
		}
		want := fmt.Sprintf("%d.%d", major%100, minor%100)
		release, full, err = parseNvcc([]byte(fmt.Sprintf(nvcc, want, want+".93") + string(text)))
		require.NoError(t, err)
		require.Equal(t, want+" "+want+".93", release+" "+full)
	})
}

// The lists of toolkits that a repository has: the name of a package, a path
// and a line of shell are made of what is read there.
func FuzzToolkitsOfARepository(f *testing.F) {
	f.Add("cuda-toolkit-12-8 12.8.1\ncuda-toolkit-13-0 13.0.2\ncuda-toolkit-12-8-config-common 12.8.90\n")
	f.Add(`<solvable kind="package" name="cuda-toolkit-12-8" edition="12.8.1-1" status="not-installed"/>` + "\n" + zypperPlan)
	f.Add(" cuda-toolkit-12-8 | 12.8.1-1 | https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64  Packages\n")
	f.Add("cuda-toolkit-12-8 12.8.1\ncuda-toolkit-12-08 12.8.1\ncuda-toolkit-12-8 12.8.99999999999999999999\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, read := range []func(string) []available{parseRepoquery, parseZypperSearch, parseMadison} {
			all := read(text)
			var again strings.Builder
			for i, a := range all {
				require.True(t, cudapkg.IsRelease(a.Release))
				require.Contains(t, text, toolkitPackage(a.Release))
				require.True(t, i == 0 || compareReleases(all[i-1].Release, a.Release) > 0, "%v", all)
				require.NotEmpty(t, a.Version)
				requireHarmless(t, a.Version, 200)
				require.GreaterOrEqual(t, a.update(), 0)
				fmt.Fprintf(&again, "%s | %s | x\n", toolkitPackage(a.Release), a.Version)
			}
			require.Equal(t, all, read(text))
			if len(all) > 0 && !strings.Contains(again.String(), "||") && strings.Count(again.String(), "|") == 2*len(all) {
				back := parseMadison(again.String())
				require.Len(t, back, len(all))
			}
			chosen, err := choose(cudapkg.Auto, version.Driver("999.1"), "", all)
			if err != nil {
				requireHarmless(t, err.Error(), 1<<16)
				continue
			}
			require.Equal(t, "/usr/local/cuda-"+chosen.Release+"/bin/nvcc", nvccPath(chosen.Release))
			require.Equal(t, profileText("12.8"), strings.ReplaceAll(profileText(chosen.Release), "cuda-"+chosen.Release+"/", "cuda-12.8/"))
		}
	})
}

// What dpkg-query says of packages: their names are given to apt-get and shown.
func FuzzPackageStates(f *testing.F) {
	f.Add("ii |dpkg|amd64\nii |cuda-nvcc-12-8|amd64\niU |libc6|i386\niHR|gone|all\nrc |old|amd64\n", "cuda-cudart-12-8", true)
	f.Add("ii |a|b c\nii |-o|amd64\nii |x|amd64;y\n\n|||\n", "nvtop", false)
	f.Fuzz(func(t *testing.T, text, name string, foreign bool) {
		all := func(string) bool { return true }
		for _, n := range parseStates(text, all) {
			require.True(t, addedForm().MatchString(n), "%q", n)
		}
		if !addedForm().MatchString(name) || strings.Contains(name, ":") || strings.Contains(text, "|dpkg|") || name == "dpkg" {
			return
		}
		arch, want := "amd64", name
		if foreign {
			arch, want = "i386", name+":i386"
		}
		text += "\nii |dpkg|amd64\nii |" + name + "|" + arch + "\n"
		require.Contains(t, parseStates(text, func(state string) bool { return state[1] == 'i' }), want)
		require.NotContains(t, parseStates(text, func(string) bool { return false }), want)
	})
}
