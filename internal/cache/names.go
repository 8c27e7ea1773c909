package cache

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

const prefix = "NVIDIA-Linux-"

// Endings of the files of one run file.
const (
	endRun     = ".run"
	endMeta    = ".json"
	endLock    = ".lock"
	endPart    = ".run.part"
	endOrigin  = ".run.part.json"
	endRefused = ".run.refused"
	endReason  = ".run.refused.txt"
	endSum     = ".run.sha256sum"
	endNewTree = ".tree.new"
	endOldTree = ".tree.old"
)

// endings has the longer ones first, because some end like others.
var endings = []string{endOrigin, endPart, endReason, endRefused, endSum, endRun, endMeta, endLock, endNewTree, endOldTree}

// FileName returns NVIDIA's name for a run file: NVIDIA-Linux-x86_64-580.76.05.run.
func FileName(v version.Driver, arch string) string { return base(v, arch) + endRun }

func base(v version.Driver, arch string) string { return prefix + arch + "-" + string(v) }

// paths are the files of one run file.
type paths struct {
	base    string // NVIDIA-Linux-x86_64-580.76.05, without folder
	run     string
	tree    string
	meta    string
	lock    string
	part    string // a download, or a copy, that is not verified yet
	origin  string // where part comes from, for resuming it
	refused string // a file that was found wrong
	reason  string // why
	sum     string // a checksum put there by hand
	newTree string // being unpacked
	oldTree string // being removed
}

func (c *Cache) paths(v version.Driver, arch string) paths {
	b := base(v, arch)
	p := filepath.Join(c.Dir, b)
	return paths{base: b, run: p + endRun, tree: p, meta: p + endMeta, lock: p + endLock, part: p + endPart, origin: p + endOrigin,
		refused: p + endRefused, reason: p + endReason, sum: p + endSum, newTree: p + endNewTree, oldTree: p + endOldTree}
}

func (p paths) file() string { return p.base + endRun }

// parseName tells which run file a name in the cache folder belongs to.
func parseName(name string) (v version.Driver, arch, ending string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", "", false
	}
	arch, text, _ := strings.Cut(rest, "-")
	if !knownArch(arch) {
		return "", "", "", false
	}
	for _, e := range endings {
		if t, found := strings.CutSuffix(text, e); found {
			text, ending = t, e
			break
		}
	}
	v, err := version.Parse(text)
	return v, arch, ending, err == nil
}

func knownArch(arch string) bool { return arch == "x86_64" || arch == "aarch64" }

// check refuses a want that makes no sense. The version becomes part of a path, so
// its form matters.
func (w *Want) check() error {
	if _, err := version.Parse(string(w.Version)); err != nil {
		return err
	}
	if !knownArch(w.Arch) {
		return fmt.Errorf("architecture %q has no driver: x86_64 or aarch64", w.Arch)
	}
	w.SHA256 = strings.ToLower(w.SHA256)
	if w.SHA256 != "" && !isSHA256(w.SHA256) {
		return hint.Errorf("set driver.sha256 to the 64 hexadecimal digits that sha256sum prints", "%q is not a sha256", w.SHA256)
	}
	return nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}
