package config

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

// Each check returns the value in its normal form, or what is wrong with it.
// What is allowed instead stands once, in the table of keys.

const period = `a duration from "1s" to "24h", such as "90s", "15m" or "1h30m"`

// str makes a check of strings a check of any value. No setting holds control
// characters, and none is longer than a path may be.
func str(check func(string) (string, string)) func(any) (any, string) {
	return func(v any) (any, string) {
		s := v.(string)
		if wrong := checkText(s); wrong != "" {
			return nil, wrong
		}
		return check(s)
	}
}

// each checks every item of a list of at most most items.
func each(most int, check func(string) (string, string)) func(any) (any, string) {
	return func(v any) (any, string) {
		list := v.([]string)
		if len(list) > most {
			return nil, fmt.Sprintf("has %d items, more than %d", len(list), most)
		}
		normal := make([]string, len(list))
		var all []string
		for i, s := range list {
			wrong := checkText(s)
			if wrong == "" {
				normal[i], wrong = check(s)
			}
			if wrong != "" {
				all = append(all, wrong)
			}
		}
		return normal, strings.Join(all, ", and ")
	}
}

func checkText(s string) string {
	if len(s) > 4096 {
		return "is longer than 4096 bytes"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "holds a control character"
	}
	return ""
}

func orEmpty(check func(string) (string, string)) func(string) (string, string) {
	return func(s string) (string, string) {
		if s == "" {
			return "", ""
		}
		return check(s)
	}
}

func checkVersion(s string) (string, string) {
	if s == "host" {
		return s, ""
	}
	if _, err := version.Parse(s); err != nil {
		return "", quote(s) + " is not a driver version"
	}
	return s, ""
}

func checkSHA256(s string) (string, string) {
	s = strings.ToLower(s)
	if s != "" && (len(s) != 64 || !only(s, "0123456789abcdef")) {
		return "", quote(s) + " is not a sha256"
	}
	return s, ""
}

// ownFlags are options that this program sets itself, or that make the
// installer or the run file's own script do something else than install.
var ownFlags = strings.Fields(`
	--silent --no-questions --ui --expert --accept-license
	--no-kernel-module --no-kernel-modules --kernel-module-only --kernel-modules-only
	--tmpdir --log-file-name --uninstall --sanity --driver-info
	--help --version --advanced-options --update --latest --force-update
	--check --info --list --lsm --label --script --keep --target --target-directory
	--target-os --target-arch --extract-only --extract-decompress
	--add-this-kernel --apply-patch --pkg-history --pkg-version --version-string
	--dkms --skip-module-unload`)

func checkFlag(s string) (string, string) {
	name, _, _ := strings.Cut(s, "=")
	if !strings.HasPrefix(name, "--") || len(name) < 4 || !only(name, lower+digits+upper+"-") {
		return "", quote(s) + " is not an option of the form --name or --name=value"
	}
	// The run file's script hands its arguments on unquoted.
	if !only(s, lower+digits+upper+"-_=/.,:+@%") {
		return "", quote(s) + " holds a space or another character that a shell would change"
	}
	for _, own := range ownFlags {
		if name == own {
			return "", name + " is not for the configuration"
		}
	}
	return s, ""
}

// capabilities are the parts of the driver that may be wanted, in the order in
// which they are said.
var capabilities = []string{"compute", "utility", "video", "graphics", "display", "ngx", "compat32", "all"}

func checkCapabilities(v any) (any, string) {
	list := v.([]string)
	for _, name := range list {
		if !slices.Contains(capabilities, name) {
			return nil, quote(name) + " is not known"
		}
	}
	switch {
	case len(list) == 0:
		return nil, "is empty"
	case slices.Contains(list, "all") && len(list) > 1:
		return nil, `"all" must stand alone`
	}
	normal := slices.DeleteFunc(slices.Clone(capabilities), func(name string) bool { return !slices.Contains(list, name) })
	return normal, ""
}

func checkPath(s string) (string, string) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", quote(s) + " is not an absolute path"
	case strings.Contains(s+"/", "/../"):
		return "", quote(s) + " holds .."
	case path.Clean(s) == "/":
		return "", "is the root folder"
	}
	return path.Clean(s), ""
}

// checkMetrics: the textfile collector of node-exporter reads *.prom only.
func checkMetrics(s string) (string, string) {
	clean, wrong := checkPath(s)
	if wrong == "" && !strings.HasSuffix(clean, ".prom") {
		wrong = quote(s) + " does not end in .prom"
	}
	return clean, wrong
}

func checkKeep(v any) (any, string) {
	if n := v.(int); n < 1 || n > 1000 {
		return nil, strconv.Itoa(n) + " is out of range"
	}
	return v, ""
}

func checkPeriod(v any) (any, string) {
	if d := v.(time.Duration); d < time.Second || d > 24*time.Hour {
		return nil, quote(shortDuration(d)) + " is out of range"
	}
	return v, ""
}

func checkToolkit(s string) (string, string) {
	if s != "" && s != cudapkg.Auto && !cudapkg.IsRelease(s) {
		return "", quote(s) + " is not a release of the toolkit"
	}
	return s, ""
}

func checkPackage(s string) (string, string) {
	if wrong := cudapkg.Wrong(s); wrong != "" {
		return "", quote(s) + " " + wrong
	}
	return s, ""
}

// maxUnitName is how long systemd lets the name of a unit be.
const maxUnitName = 255

func checkRestart(v any) (any, string) {
	r := v.(Restart)
	_, wrong := each(64, func(s string) (string, string) {
		name, isService := strings.CutSuffix(s, ".service")
		if !isService || name == "" || len(s) > maxUnitName || !only(name, lower+upper+digits+":_.@\\-") {
			return "", quote(s) + " is not the name of a service"
		}
		return s, ""
	})(r.Units)
	return r, wrong
}

func checkRun(v any) (any, string) {
	lists := v.([][]string)
	if len(lists) > 16 {
		return nil, fmt.Sprintf("has %d commands, more than 16", len(lists))
	}
	for i, argv := range lists {
		_, wrong := each(64, func(s string) (string, string) { return s, "" })(argv)
		switch {
		case wrong != "":
			return nil, fmt.Sprintf("command %d %s", i+1, wrong)
		case len(argv) == 0 || argv[0] == "" || argv[0][0] == '-':
			return nil, fmt.Sprintf("command %d names no program", i+1)
		}
	}
	return lists, ""
}

// gpuName is a UUID or its beginning, a model, a PCI address, or a MIG instance such as 0:1.
var gpuName = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9 ._:()/-]*$`)

// CheckGPUs checks a choice of GPUs, whichever the host has. It takes Phoenix's
// "0, 1" too and returns "0,1". The kernel module numbers its nodes /dev/nvidia0 to
// /dev/nvidia254; 255 is nvidiactl.
func CheckGPUs(s string) (normal, wrong string) {
	if s == "all" || s == "none" {
		return s, ""
	}
	var list []string
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		named := gpuName().MatchString(item) && !only(item, digits) &&
			(strings.ContainsAny(item, digits) || strings.HasPrefix(strings.ToUpper(item), "GPU-")) // "fisrt" is a mistake
		n, _ := strconv.Atoi(item)
		if !named && (!number(item, 3) || n > 254) {
			return "", quote(s) + " is not a choice of GPUs"
		}
		if !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	return strings.Join(list, ","), ""
}

func checkChain(s string) (string, string) {
	storage, name, _ := strings.Cut(s, ":snippets/")
	switch {
	case storage == "" || name == "" || name == "." || name == ".." || strings.Contains(name, "/") ||
		!only(storage, lower+upper+digits+"._-"):
		return "", quote(s) + " is not a snippet on a storage"
	case name == "pve-nvidia-hook", strings.HasPrefix(name, "pve-nvidia-hook+"):
		return "", quote(s) + " is this hook itself"
	}
	return s, ""
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

func only(s, chars string) bool { return strings.Trim(s, chars) == "" }

// number reports whether s is a number of at most most digits without a leading zero.
func number(s string, most int) bool {
	return s != "" && len(s) <= most && only(s, digits) && (s == "0" || s[0] != '0')
}
