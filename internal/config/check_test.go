package config

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValuesThatAreTakenAndRefused(t *testing.T) {
	for _, c := range []struct {
		key   string
		raw   any
		want  any    // the value in its normal form, or nil:
		wrong string // what is said of it
	}{
		{"driver.version", "580.142", "580.142", ""},
		{"driver.version", "latest", nil, `"latest" is not a driver version`},
		{"driver.version", "580.76.05\n", nil, "holds a control character"},
		{"driver.version", string(make([]byte, 5000)), nil, "is longer than 4096 bytes"},
		{"driver.urls", []any{"https://h/{os_arch}/{version}/{file}?a={arch}"}, []string{"https://h/{os_arch}/{version}/{file}?a={arch}"}, ""},
		{"driver.urls", []any{"https:///f"}, nil, `"https:///f" names no host`},
		{"driver.urls", []any{"https://h"}, nil, `"https://h" names no file`},
		{"driver.urls", []any{"https://h:port/f"}, nil, `"https://h:port/f" is not a URL`},
		{"driver.urls", []any{"https://h/f#x"}, nil, `"https://h/f#x" holds a #`},
		{"driver.urls", []any{"https://h/a b"}, nil, `"https://h/a b" holds a space or another character that no URL has`},
		{"driver.urls", []any{"file:///etc/passwd", "/f"}, nil, `"file:///etc/passwd" starts with neither https:// nor http://, and "/f" starts with neither https:// nor http://`},
		{"driver.urls", []any{"https://h/f", 5.0}, nil, "item 2 must be a string, is a number"},
		{"driver.urls", make([]any, 3), nil, "item 1 must be a string, is null"},
		{"driver.flags", []any{"--no-opengl-files", "--x-prefix=/usr"}, []string{"--no-opengl-files", "--x-prefix=/usr"}, ""},
		{"driver.capabilities", []any{"video", "compute", "video"}, []string{"compute", "video"}, ""},
		{"driver.capabilities", []any{"all"}, []string{"all"}, ""},
		{"driver.capabilities", []any{"all", "compute"}, nil, `"all" must stand alone`},
		{"driver.capabilities", []any{"cuda"}, nil, `"cuda" is not known`},
		{"driver.capabilities", []any{}, nil, "is empty"},
		{"driver.flags", []any{"-s"}, nil, `"-s" is not an option of the form --name or --name=value`},
		{"driver.flags", []any{"--a b"}, nil, `"--a b" is not an option of the form --name or --name=value`},
		{"driver.flags", []any{"--x-prefix=$(id)"}, nil, `"--x-prefix=$(id)" holds a space or another character that a shell would change`},
		{"driver.flags", []any{"--uninstall"}, nil, "--uninstall is not for the configuration"},
		{"driver.flags", []any{"--silent"}, nil, "--silent is not for the configuration"},
		{"driver.require_checksum", true, true, ""},
		{"driver.require_checksum", time.Time{}, nil, "must be true or false, is a date or time"},
		{"cache.dir", "/srv//cache/", "/srv/cache", ""},
		{"cache.dir", "/srv/..", nil, `"/srv/.." holds ..`},
		{"cache.dir", "", nil, `"" is not an absolute path`},
		{"cache.dir", "/.", nil, "is the root folder"},
		{"cache.keep", int64(1000), 1000, ""},
		{"cache.keep", int64(1001), nil, "1001 is out of range"},
		{"cache.keep", 1.5, nil, "must be a whole number, is a number"},
		{"cache.lock_timeout", "24h", 24 * time.Hour, ""},
		{"cache.lock_timeout", "24h1s", nil, `"24h0m1s" is out of range`},
		{"cache.lock_timeout", "999ms", nil, `"999ms" is out of range`},
		{"cache.lock_timeout", "-5m", nil, `"-5m" is out of range`},
		{"cuda.toolkit", "auto", "auto", ""},
		{"cuda.toolkit", "12.8.1", nil, `"12.8.1" is not a release of the toolkit`},
		{"cuda.toolkit", "0.5", nil, `"0.5" is not a release of the toolkit`},
		{"cuda.toolkit", "12-8", nil, `"12-8" is not a release of the toolkit`},
		{"cuda.packages", []any{"libnvjitlink-12-8", "nvtop=3.0.1-1+b2"}, []string{"libnvjitlink-12-8", "nvtop=3.0.1-1+b2"}, ""},
		{"cuda.packages", []any{"cuda-drivers"}, nil, `"cuda-drivers" belongs to the NVIDIA driver, which comes from the host's run file`},
		{"cuda.packages", []any{"--purge"}, nil, `"--purge" is not a package name`},
		{"cuda.packages", []any{""}, nil, `"" is not a package name`},
		{"cuda.packages", []any{"nvtop="}, nil, `"nvtop=" names no version of a package`},
		{"cuda.repo_url", "http://127.0.0.1:8080/r/", "http://127.0.0.1:8080/r/", ""},
		{"cuda.repo_url", "http://127.0.0.1.example/r/", nil, `"http://127.0.0.1.example/r/" is not https`},
		{"cuda.repo_url", "https://h/repos/{distro}/{arch}/", "https://h/repos/{distro}/{arch}/", ""},
		{"cuda.repo_url", "https://h/repos/{version}/", nil, `"https://h/repos/{version}/" holds a space or another character that no URL has`},
		{"cuda.repo_url", "https://me:hunter2@h/r/", nil, `"https://***@h/r/" holds a login, which every user of the container could read`},
		{"cuda.repo_url", "https://h/r/?x", nil, `"https://h/r/?***" holds a query`},
		{"after.restart", "auto", Restart{}, ""},
		{"after.restart", "never", Restart{Never: true}, ""},
		{"after.restart", "always", nil, `"always" is not known`},
		{"after.restart", []any{"my.service", "a@1.service", `x\x2dy.service`}, Restart{Units: []string{"my.service", "a@1.service", `x\x2dy.service`}}, ""},
		{"after.restart", []any{"my", ".service", "a/b.service"}, nil, `"my" is not the name of a service, and ".service" is not the name of a service, and "a/b.service" is not the name of a service`},
		{"after.restart", []any{1.0}, nil, "item 1 must be a string, is a number"},
		{"after.restart", true, nil, "must be a list of strings, is true or false"},
		{"after.run", []any{[]any{"/root/patch.sh", "-q", ""}, []any{"true"}}, [][]string{{"/root/patch.sh", "-q", ""}, {"true"}}, ""},
		{"after.run", []any{"/root/patch.sh"}, nil, "item 1 must be a list of strings, is a string"},
		{"after.run", []any{[]any{"true"}, []any{}}, nil, "command 2 names no program"},
		{"after.run", []any{[]any{"--help"}}, nil, "command 1 names no program"},
		{"after.run", []any{[]any{"sh", "-c", "a\nb"}}, nil, "command 1 holds a control character"},
		{"docker.toolkit", "yes", nil, "must be true or false, is a string"},
		{"paths.metrics", "", "", ""},
		{"paths.metrics", "/a/b.prom", "/a/b.prom", ""},
		{"gpus", "0, 1 ,2", "0,1,2", ""},
		{"gpus", "", nil, `"" is not a choice of GPUs`},
		{"gpus", "GPU-5c4f, 0000:01:00.0,1:0, RTX 3090", "GPU-5c4f,0000:01:00.0,1:0,RTX 3090", ""},
		{"gpus", "fisrt", nil, `"fisrt" is not a choice of GPUs`},
		{"gpus", "0,", nil, `"0," is not a choice of GPUs`},
		{"gpus", "01", nil, `"01" is not a choice of GPUs`},
		{"gpus", "255", nil, `"255" is not a choice of GPUs`},
		{"chain", "nfs-1:snippets/other.sh", "nfs-1:snippets/other.sh", ""},
		{"chain", "local:snippets/pve-nvidia-hook+x", nil, `"local:snippets/pve-nvidia-hook+x" is this hook itself`},
		{"chain", "local:snippets/../x", nil, `"local:snippets/../x" is not a snippet on a storage`},
		{"chain", "local:iso/x", nil, `"local:iso/x" is not a snippet on a storage`},
		{"chain", "../x:snippets/x", nil, `"../x:snippets/x" is not a snippet on a storage`},
	} {
		got, wrong := find(c.key).read(c.raw)
		require.Equal(t, c.wrong, wrong, "%s = %v", c.key, c.raw)
		if wrong == "" {
			require.Equal(t, c.want, got, "%s = %v", c.key, c.raw)
		}
	}
	_, wrong := find("driver.urls").read(make([]any, 0))
	require.Empty(t, wrong)
	many := make([]any, 17)
	for i := range many {
		many[i] = "https://h/f"
	}
	_, wrong = find("driver.urls").read(many)
	require.Equal(t, "has 17 items, more than 16", wrong)
}

func TestShortNamesOfAContainerDoNotClash(t *testing.T) {
	seen := map[string]string{}
	for i := range keys {
		if k := &keys[i]; k.scope != node && k.scope != dotted {
			require.Empty(t, seen[k.short()], k.name)
			require.NotContains(t, sections(), k.short())
			seen[k.short()] = k.name
		}
	}
}

func TestFIFOIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(dir+"/config.toml", 0o600))
	_, err := load(dir)
	require.ErrorContains(t, err, "is not a regular file")
}

func TestVersionInAFileName(t *testing.T) {
	for url, want := range map[string]string{
		"https://h/550.1/NVIDIA-Linux-x86_64-580.76.05.run":           "580.76.05",
		"https://h/NVIDIA-Linux-aarch64-580.142.run?v=1/570.86.16":    "580.142",
		"https://h/NVIDIA-Linux-x86_64-580.76.05-no-compat32.run":     "580.76.05",
		"https://h/580.76.05/{file}":                                  "",
		"https://h/580.76.05/driver.run":                              "",
		"https://h/580.76.05/NVIDIA-Linux-{arch}-{version}.run":       "",
		"https://580.76.05/NVIDIA-Linux-x86_64-{version}-grid.run":    "",
		"https://h/NVIDIA-Linux-x86_64-580.76.05.run.mirror-1.22.3.4": "580.76.05",
	} {
		require.Equal(t, want, fileVersion(url), url)
	}
}
