package cuda

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cache"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

func TestSourceListsAreRead(t *testing.T) {
	require.Equal(t, []source{
		{"f.list", "http://a/", false},
		{"f.list", "https://b/", true},
		{"f.list", "https://c/", true},
		{"f.list", "https://d/", false},
	}, parseSources("f.list", strings.ReplaceAll(`# deb http://no/ /
deb http://a/ stable main # said-by=x
deb [signed-by=RING] https://b/ /
deb [ arch=amd64 signed-by=RING ] https://c/ /
deb-src [arch=amd64] https://d/ /
deb
deb [signed-by=RING
`, "RING", keyringFile)))
	require.Equal(t, []source{
		{"f.sources", "https://a/", true},
		{"f.sources", "https://b/", true},
		{"f.sources", "https://c/", false},
	}, parseSources("f.sources", strings.ReplaceAll(`Types: deb
URIs: https://a/
 https://b/
Suites: /
# ours
Signed-By: RING

# a comment
Types: deb
URIs: https://c/
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
URIs: https://d/
`, "RING", keyringFile)))
}

func TestRemainsOfAHandMadeListAreNamed(t *testing.T) {
	repo := repoBase + "debian12/x86_64/"
	none := func(string) bool { return false }
	for _, c := range []struct {
		s       source
		err     string
		remarks int
	}{
		{source{"/a.list", repo, true}, "", 1},
		{source{"/a.list", strings.TrimRight(repo, "/"), false}, "/a.list in the container has the repository", 0},
		{source{"/a.list", repoBase + "ubuntu2204/x86_64/", false}, "", 1},
		{source{"/a.list", "http://deb.example.org/debian", false}, "", 0},
	} {
		remarks, err := judgeSources([]source{c.s}, repo, none)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			require.NotEmpty(t, hint.Of(err))
		} else {
			require.NoError(t, err)
		}
		require.Len(t, remarks, c.remarks, "%+v", c.s)
	}
	_, err := judgeSources([]source{{"/own", repo, false}}, repo, func(file string) bool { return file == "/own" })
	require.NoError(t, err)
}

func TestWhatAptUpdateSaysIsUnderstood(t *testing.T) {
	const repo = "http://127.0.0.1:40404/debian12/x86_64/"
	for name, c := range map[string]struct {
		code   int
		text   string
		want   verdict
		others int
	}{
		"well": {0, "Get:1 http://127.0.0.1:40404/debian12/x86_64  InRelease [1234 B]\nReading package lists...", fine, 0},
		"refused, status 0": {0, `Err:1 http://127.0.0.1:40404/debian12/x86_64  InRelease
  Could not connect to 127.0.0.1:40404 (127.0.0.1). - connect (111: Connection refused)
W: Failed to fetch http://127.0.0.1:40404/debian12/x86_64/InRelease  Could not connect to 127.0.0.1:40404 (127.0.0.1). - connect (111: Connection refused)
W: Some index files failed to download. They have been ignored, or old ones used instead.`, unreachable, 0},
		"no name": {0, "W: Failed to fetch http://127.0.0.1:40404/debian12/x86_64/InRelease  Temporary failure resolving 'x'", unreachable, 0},
		"key": {100, `W: GPG error: http://127.0.0.1:40404/debian12/x86_64  InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0123
E: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.`, badKey, 0},
		"key, apt 3": {100, "W: OpenPGP signature verification failed: http://127.0.0.1:40404/debian12/x86_64  InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key 01, which is needed to verify signature.", badKey, 0},
		"old key, apt 3": {100, `Err:2 http://127.0.0.1:40404/debian12/x86_64  InRelease
  Sub-process /usr/bin/sqv returned an error code (1), error message is: Signing key on EB693B3035CD5710E231E123A4B469963BF863CC is not bound:            No binding signature at time 2026-02-10T20:05:37Z   because: Policy rejected non-revocation signature (PositiveCertification) requiring second pre-image resistance   because: SHA1 is not considered secure since 2026-02-01T00:00:00Z
Error: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.`, oldKey, 0},
		"old key soon": {0, "Warning: http://127.0.0.1:40404/debian12/x86_64/InRelease: Policy will reject signature within a year, see --audit for details", fine, 0},
		"words, apt 3": {100, "Error: The repository 'http://127.0.0.1:40404/debian12/x86_64  InRelease' is not signed.", badKey, 0},
		"sum":          {100, "E: Failed to fetch http://127.0.0.1:40404/debian12/x86_64/Packages.gz  Hash Sum mismatch", brokenIndex, 0},
		"size":         {100, "E: Failed to fetch http://127.0.0.1:40404/debian12/x86_64/Packages.gz  File has unexpected size (8 != 9). Mirror sync in progress? [IP: 127.0.0.1 40404]", brokenIndex, 0},
		"not there":    {100, "E: The repository 'http://127.0.0.1:40404/debian12/x86_64  Release' does not have a Release file.", brokenIndex, 0},
		"404":          {100, "E: Failed to fetch http://127.0.0.1:40404/debian12/x86_64/Packages  404  Not Found [IP: 127.0.0.1 40404]", brokenIndex, 0},
		"no network": {100, `Ign:1 http://127.0.0.1:40404/debian12/x86_64  InRelease
Err:2 http://127.0.0.1:40404/debian12/x86_64  Release
E: The repository 'http://127.0.0.1:40404/debian12/x86_64  Release' does not have a Release file.
  Cannot initiate the connection to 127.0.0.1:40404 (127.0.0.1). - connect (101: Network is unreachable)`, unreachable, 0},
		"lock":           {100, "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 12 (apt-get)\nE: Unable to lock directory /var/lib/apt/lists/", lockedOut, 0},
		"two keys":       {100, "E: Conflicting values set for option Signed-By regarding source http://127.0.0.1:40404/debian12/x86_64/ /: a != b\nE: The list of sources could not be read.", toolFailed, 0},
		"bad list":       {100, "E: Malformed entry 1 in list file /etc/apt/sources.list.d/x.list (URI)\nE: The list of sources could not be read.", toolFailed, 0},
		"others, status": {100, "E: The repository 'http://other/debian x Release' does not have a Release file.", fine, 1},
		"others":         {0, "W: Failed to fetch http://other/debian/dists/x/InRelease  Could not resolve 'other'\nW: Some index files failed to download.", fine, 1},
		"silent":         {1, "", toolFailed, 0},
		"twice":          {0, "W: Target Packages (Packages) is configured multiple times in a:1 and b:1 http://127.0.0.1:40404/debian12/x86_64", fine, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v, about, others := judgeUpdate(c.code, strings.Split(c.text, "\n"), repo)
			require.Equal(t, c.want, v, about)
			if c.want == fine {
				require.Len(t, others, c.others)
			}
		})
	}
	_, _, others := judgeUpdate(0, strings.Split(`Hit:1 http://127.0.0.1:40404/debian12/x86_64  InRelease
Err:2 http://127.0.0.1:9/deb  InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
Reading package lists...
W: Failed to fetch http://127.0.0.1:9/deb/InRelease  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)`, "\n"), repo)
	require.Contains(t, others[0], "Err:2 http://127.0.0.1:9/deb  InRelease: Could not connect", "the reason is in the next line")
}

func TestAptSizesAreRead(t *testing.T) {
	fetch, disk := parseRoom("Need to get 3,012 MB/3,500 MB of archives.\nAfter this operation, 7.7 GB of additional disk space will be used.\n")
	require.Equal(t, [2]uint64{3012e6, 7.7e9}, [2]uint64{fetch, disk})
	fetch, disk = parseRoom("Need to get 0 B of archives.\nAfter this operation, 1,024 B disk space will be freed.\n")
	require.Equal(t, [2]uint64{}, [2]uint64{fetch, disk})
	fetch, disk = parseRoom("  Download size: 512 kB\n  Space needed: 14.3 MB / 20 GB available\n")
	require.Equal(t, [2]uint64{512e3, 14.3e6}, [2]uint64{fetch, disk})
}

func TestTheSkipPathNoticesWhatIsWrong(t *testing.T) {
	const nvcc = "/usr/local/cuda-12.8/bin/nvcc"
	good := Installed{OK: true, Toolkit: "12.8", Packages: []string{"a", "b"}, Driver: "580.95.05", Release: "12.8", Version: "12.8.93",
		Nvcc: nvcc, NvccSize: 7, Tool: toolApt, Added: []string{"a"}, Files: []File{{Path: profileFile, Size: 3}, {Path: pinFile, Size: 4}}}
	want := Want{Toolkit: "12.8", Packages: []string{"b", "a"}, Driver: "580.95.05"}
	for name, c := range map[string]struct {
		change func(*Installed, *Want, *folder)
		why    string
	}{
		"all well":       {func(*Installed, *Want, *folder) {}, ""},
		"newer driver":   {func(_ *Installed, w *Want, _ *folder) { w.Driver = "610.43.02" }, ""},
		"old driver":     {func(_ *Installed, w *Want, _ *folder) { w.Driver = "470.256.02" }, "needs driver 525.60.13"},
		"other release":  {func(_ *Installed, w *Want, _ *folder) { w.Toolkit = "12.9" }, "12.9"},
		"other packages": {func(_ *Installed, w *Want, _ *folder) { w.Packages = nil }, "packages"},
		"other mirror":   {func(_ *Installed, w *Want, _ *folder) { w.RepoURL = "https://x/" }, "repository"},
		"auto, driver": {func(in *Installed, w *Want, _ *folder) {
			in.Toolkit, w.Toolkit, w.Driver = cudapkg.Auto, cudapkg.Auto, "590.48.01"
		}, "590.48.01"},
		"not finished":  {func(in *Installed, _ *Want, _ *folder) { in.OK = false }, "did not come to its end"},
		"nothing there": {func(in *Installed, _ *Want, _ *folder) { *in = Installed{} }, "no toolkit is installed"},
		"packages alone": {func(in *Installed, w *Want, _ *folder) {
			*in, w.Toolkit, w.Packages = Installed{}, "", []string{"nvidia-container-toolkit"}
		}, "packages are missing: nvidia-container-toolkit"},
		"nvcc gone":       {func(_ *Installed, _ *Want, c *folder) { c.Remove(nvcc) }, nvcc},
		"nvcc changed":    {func(_ *Installed, _ *Want, c *folder) { c.set(nvcc, "longer than it was") }, "has changed"},
		"pin gone":        {func(_ *Installed, _ *Want, c *folder) { c.Remove(pinFile) }, pinFile},
		"profile gone":    {func(_ *Installed, _ *Want, c *folder) { c.Remove(profileFile) }, profileFile},
		"hostile path":    {func(in *Installed, _ *Want, _ *folder) { in.Files[0].Path = "/etc/passwd" }, "damaged"},
		"hostile nvcc":    {func(in *Installed, _ *Want, _ *folder) { in.Nvcc = "/etc/passwd" }, "damaged"},
		"hostile package": {func(in *Installed, _ *Want, _ *folder) { in.Added = []string{"-o", "x"} }, "damaged"},
		"hostile words":   {func(in *Installed, _ *Want, _ *folder) { in.Version = "\x1b[2J" }, "damaged"},
		"hostile driver":  {func(in *Installed, _ *Want, _ *folder) { in.Driver = "\x1b[2J" }, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{nvcc: "program", profileFile: "abc", pinFile: "abcd"})
			in, w := good, want
			in.Files = append([]File{}, good.Files...)
			c.change(&in, &w, f)
			ok, why := Current(unmovable{f, t}, in, w) // no process, no file opened
			require.Equal(t, c.why == "", ok, why)
			require.Contains(t, why, c.why)
		})
	}
}

func TestRefusalsComeBeforeAnythingIsTouched(t *testing.T) {
	for name, c := range map[string]struct {
		os   string
		want Want
		err  string
	}{
		"old driver":     {"ID=debian\nVERSION_ID=12\n", Want{Toolkit: "13.0", Driver: "550.163.01"}, "needs driver 580.65.06"},
		"not served":     {"ID=alpine\nVERSION_ID=3.20\n", Want{Toolkit: "12.8", Driver: "580.95.05"}, "Debian 11, 12, 13"},
		"other system":   {"ID=debian\nVERSION_ID=12\n", Want{Toolkit: "12.8", Driver: "580.95.05", RepoURL: repoBase + "ubuntu2404/x86_64/"}, "ubuntu2404"},
		"driver package": {"ID=debian\nVERSION_ID=12\n", Want{Packages: []string{"cuda-drivers"}}, "belongs to the NVIDIA driver"},
		"option":         {"ID=debian\nVERSION_ID=12\n", Want{Packages: []string{"--allow-unauthenticated"}}, "not a package name"},
		"no os-release":  {"", Want{Toolkit: "12.8"}, "ID"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{"/etc/os-release": c.os})
			c.want.Arch = "x86_64"
			in, err := Install(t.Context(), f, c.want, &logged{t: t}) // a process would fail the test
			require.ErrorContains(t, err, c.err)
			require.True(t, in.Empty())
		})
	}
}

func TestFetchTriesAgainOnlyWhereThatHelps(t *testing.T) {
	for name, c := range map[string]struct {
		answers []int // status of each answer in turn, the last for ever
		gets    int64
		err     string
	}{
		"busy server": {[]int{503, 500, 200}, 3, ""},
		"not there":   {[]int{404}, 1, "404"},
		"down":        {[]int{503}, 0, "given up"},
	} {
		t.Run(name, func(t *testing.T) {
			var gets atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(gets.Add(1))
				w.WriteHeader(c.answers[min(n, len(c.answers))-1])
				w.Write([]byte("!<arch>\ndebian-binary "))
			}))
			defer server.Close()
			j, cancel := newJob(t.Context(), nil, Want{NetworkWait: 200 * time.Millisecond, step: time.Millisecond}, &logged{t: t})
			defer cancel()
			_, err := j.fetch(j.ctx, server.URL, "x.deb", checkDeb)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
				require.NotEmpty(t, hint.Of(err))
			}
			if c.gets > 0 {
				require.Equal(t, c.gets, gets.Load())
			}
		})
	}
	big := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat("x", 64<<10))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer big.Close()
	j, cancel := newJob(t.Context(), nil, Want{step: time.Millisecond}, &logged{t: t})
	defer cancel()
	_, err := j.fetch(j.ctx, big.URL, "x.deb", checkDeb)
	require.ErrorContains(t, err, "more than")
}

// The host fetches the keyring package: the container's network has no part in it.
func TestHostWithoutNetworkIsSaidOnceAndInTheCachesWords(t *testing.T) {
	log := &logged{t: t}
	w := Want{NetworkWait: 20 * time.Millisecond, step: time.Millisecond,
		dial: func(_ context.Context, _, address string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: strings.TrimSuffix(address, ":80"), Server: "192.0.2.1:53", IsNotFound: true}}
		}}
	j, cancel := newJob(t.Context(), nil, w, log)
	defer cancel()
	_, err := j.fetch(j.ctx, "http://nvidia.invalid/debian12/x.deb", "x.deb", checkDeb)
	require.EqualError(t, err, "fetch x.deb on the host: given up after 20ms: cannot reach nvidia.invalid: no such host")
	require.Equal(t, cache.NetworkHint+"; the driver is not affected", hint.Of(err))
	said := slices.DeleteFunc(slices.Clone(log.lines), func(l string) bool { return strings.HasPrefix(l, "debug: ") })
	require.Equal(t, []string{"fetch x.deb on the host: cannot reach nvidia.invalid: no such host; waiting for the host's network or the repository for up to 20ms"}, said)
}

func TestAProxysPasswordStaysOnTheHost(t *testing.T) {
	for name, c := range map[string]struct {
		proxy string
		told  bool
	}{
		"plain":     {"http://proxy.example:3128", true},
		"login":     {"http://me:secret@proxy.example:3128", false},
		"token":     {"http://secret@proxy.example:3128", false},
		"no URL":    {"http://me:secret@proxy.example:port", false},
		"no scheme": {"me:secret@proxy.example:3128", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t, map[string]string{"/etc/os-release": "ID=debian\nVERSION_ID=12\n"})
			log := &logged{t: t}
			w := Want{Toolkit: "12.8", Driver: "580.95.05", Arch: "x86_64", Proxy: c.proxy}
			spy := &listening{folder: f}
			_, err := Install(t.Context(), spy, w, log)
			require.Error(t, err, "nothing is ready in the container")
			require.NotEmpty(t, spy.env)
			require.Equal(t, c.told, slices.Contains(spy.env, "https_proxy="+c.proxy))
			require.NotContains(t, strings.Join(append(spy.env, log.lines...), "\n"), "secret")
			require.Equal(t, !c.told, log.has("set it in the container (Acquire::http::Proxy"))
		})
	}
	log := &logged{t: t}
	j, cancel := newJob(t.Context(), nil, Want{Proxy: "http://me:secret@proxy.example:port", NetworkWait: 20 * time.Millisecond, step: time.Millisecond}, log)
	defer cancel()
	_, err := j.fetch(j.ctx, "http://nvidia.example/x.deb", "x.deb", checkDeb)
	require.ErrorContains(t, err, "the proxy setting is not a URL")
	require.NotContains(t, strings.Join(append(log.lines, err.Error()), "\n"), "secret")
}

// listening keeps the environment of the first command, which fails as all do.
type listening struct {
	*folder
	env []string
}

func (l *listening) Run(_ context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	l.env = append(l.env, cmd.Env...)
	return lxc.Result{Code: 1}, nil
}

func TestADeadlineIsSaidInWords(t *testing.T) {
	f := newFolder(t, map[string]string{"/etc/os-release": "ID=debian\nVERSION_ID=12\n"})
	slow := hanging{f}
	_, err := Install(t.Context(), slow, Want{Toolkit: "12.8", Driver: "580.95.05", Arch: "x86_64", Timeout: 20 * time.Millisecond}, &logged{t: t})
	require.ErrorContains(t, err, "not done within 20ms")
	require.ErrorIs(t, err, lxc.ErrDeadline)
	require.Contains(t, hint.Of(err), "timeout")
}

type hanging struct{ *folder }

func (h hanging) Run(ctx context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	<-ctx.Done()
	return lxc.Result{}, lxc.ErrDeadline
}

func TestWhatIsWantedHasATrueName(t *testing.T) {
	for name, w := range map[string]Want{
		"the CUDA toolkit":           {Toolkit: "auto", Packages: []string{"nvidia-container-toolkit"}},
		"NVIDIA's Container Toolkit": {Packages: []string{"nvidia-container-toolkit"}},
		"what cuda.packages names":   {Packages: []string{"nvtop", "nvidia-container-toolkit"}},
	} {
		require.Equal(t, name, w.Name())
	}
	require.NotContains(t, Want{Packages: []string{"nvidia-container-toolkit"}}.diskHint(), "parts of the toolkit")
}

func TestWhatIsLeftOfAToolkitHasATrueName(t *testing.T) {
	for name, in := range map[string]Installed{
		"CUDA toolkit 12.8":                                        {OK: true, Release: "12.8", Toolkit: "12.8", Added: []string{"cuda-toolkit-12-8"}},
		"what cuda.packages brought":                               {OK: true, Packages: []string{"nvtop"}, Added: []string{"nvtop"}},
		"NVIDIA's Container Toolkit":                               {OK: true, Packages: []string{"nvidia-container-toolkit=1.20.2-1"}, Added: []string{"nvidia-container-toolkit"}},
		"an unfinished installation of NVIDIA's Container Toolkit": {Packages: []string{"nvidia-container-toolkit"}, Added: []string{"nvidia-container-toolkit"}},
		"an unfinished installation of the CUDA toolkit":           {Toolkit: "12.8", Added: []string{keyringPackage, "cuda-nvcc-12-8"}},
		"the setup for CUDA packages that were not installed":      {Toolkit: "12.8", Added: []string{keyringPackage}, Files: []File{{Path: pinFile}}},
	} {
		require.Equal(t, name, in.Name())
	}
}
