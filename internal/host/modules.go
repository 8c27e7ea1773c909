package host

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
)

// Kernel returns the release of the running kernel, such as 6.8.12-4-pve, or ""
// when it cannot be read.
func (h Host) Kernel() string {
	release, _ := firstLine(h.Path("proc/sys/kernel/osrelease"))
	return release
}

// moduleFile is the file of NVIDIA's main kernel module: nvidia.ko, and
// nvidia-current.ko or nvidia-tesla-470.ko of Debian's packages. Its companions,
// such as nvidia-uvm.ko, do not match.
var moduleFile = lazy.Regexp(`^nvidia(-(current|tesla|legacy))?(-[0-9]+(xx)?)?(-open)?\.ko(\.xz|\.zst|\.gz)?$`)

// Limits of a look at the installed modules.
const (
	maxKernels    = 100
	maxModuleList = 8 << 20 // bytes of one modules.dep
)

// BuiltModules returns the file of NVIDIA's module for each installed kernel that
// has one, by the kernel's release, as modules.dep lists it for modprobe.
func (h Host) BuiltModules() map[string]string {
	lists, _ := filepath.Glob(h.Path("lib/modules/*/modules.dep"))
	built := map[string]string{}
	for _, list := range lists[:min(len(lists), maxKernels)] {
		f, err := os.Open(list)
		if err != nil {
			continue
		}
		dir := filepath.Dir(list)
		lines := bufio.NewScanner(io.LimitReader(f, maxModuleList))
		for lines.Scan() {
			name, _, ok := strings.Cut(lines.Text(), ":")
			if ok && moduleFile().MatchString(path.Base(name)) {
				built[filepath.Base(dir)] = filepath.Join(dir, name)
				break
			}
		}
		f.Close()
	}
	return built
}

// Signed reports whether a kernel module's file ends with a signature. known is
// false when that cannot be told: the file is compressed, or cannot be read.
func Signed(file string) (signed, known bool) {
	const end = "~Module signature appended~\n" // MODULE_SIG_STRING of the kernel
	if filepath.Ext(file) != ".ko" {
		return false, false
	}
	f, err := os.Open(file)
	if err != nil {
		return false, false
	}
	defer f.Close()
	tail := make([]byte, len(end))
	if _, err := f.Seek(-int64(len(end)), io.SeekEnd); err != nil {
		return false, false
	}
	_, err = io.ReadFull(f, tail)
	return bytes.Equal(tail, []byte(end)), err == nil
}

// SignedOnly says why the kernel loads signed modules only, or "" when it loads
// any. lockdown(7), and the EFI variable SecureBoot: four bytes of attributes and
// one that is 1 when it is on.
func (h Host) SignedOnly() string {
	if line, _ := firstLine(h.Path("sys/module/module/parameters/sig_enforce")); line == "Y" {
		return "module.sig_enforce is set"
	}
	line, _ := firstLine(h.Path("sys/kernel/security/lockdown")) // none [integrity] confidentiality
	_, mode, _ := strings.Cut(line, "[")
	if mode, _, _ = strings.Cut(mode, "]"); mode != "" && mode != "none" {
		return "the kernel is in lockdown mode " + mode
	}
	if raw, _ := ReadSmall(h.Path("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")); len(raw) == 5 && raw[4] == 1 {
		return "Secure Boot is on"
	}
	return ""
}
