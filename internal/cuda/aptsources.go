package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lazy"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// keyringFile is where NVIDIA's cuda-keyring package keeps the repository's key.
const keyringFile = "/usr/share/keyrings/cuda-archive-keyring.gpg"

const sourcesDir = "/etc/apt/sources.list.d"

// ownList is apt's list of the repository where it is another than the one that
// cuda-keyring's own list names (a mirror).
const ownList = sourcesDir + "/pve-nvidia-hook-cuda.list"

// source is one URL in apt's source lists.
type source struct {
	file   string
	uri    string
	signed bool // by NVIDIA's keyring
}

// disabled is what turns off an entry of the deb822 format of sources.list(5).
var disabled = lazy.Regexp(`(?im)^enabled:\s*(no|false|0|off|without|disable)\s*$`)

// parseSources finds the URLs in a source list of either format of
// sources.list(5), and whether their entry names NVIDIA's keyring.
func parseSources(file, text string) []source {
	var all []source
	var code strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "")) {
		if line, _, comment := strings.Cut(line, "#"); !comment || strings.TrimSpace(line) != "" {
			code.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	end := "\n" // of an entry
	if path.Ext(file) == ".sources" {
		end = "\n\n"
	}
	for entry := range strings.SplitSeq(code.String(), end) {
		if disabled().MatchString(entry) {
			continue
		}
		for _, word := range strings.Fields(entry) {
			if strings.Contains(word, "://") {
				all = append(all, source{file, word, strings.Contains(entry, keyringFile)})
			}
		}
	}
	return all
}

// sources reads all of apt's source lists in the container. Files that apt
// ignores because of their name are left out.
func (a *apt) sources() ([]source, error) {
	names, err := a.c.ReadDir(sourcesDir, 1000)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the container's %s: %w", sourcesDir, err)
	}
	files := []string{"/etc/apt/sources.list"}
	for _, n := range names {
		if e := path.Ext(n); e == ".list" || e == ".sources" {
			files = append(files, sourcesDir+"/"+n)
		}
	}
	var all []source
	for _, file := range files {
		text, err := a.c.ReadFile(file, 1<<20)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the container's %s: %w", file, err)
		}
		all = append(all, parseSources(file, string(text))...)
	}
	return all, nil
}

// judgeSources looks for a repository set up by hand. For one repository apt
// accepts one Signed-By only, and refuses all work otherwise. ours are the files
// that this program or cuda-keyring put there.
func judgeSources(all []source, repo string, ours func(file string) bool) (remarks []string, err error) {
	for _, s := range all {
		file, uri := say.Clean(s.file, 200), say.Clean(s.uri, 200)
		switch {
		case ours(s.file):
		case sameRepo(s.uri, repo) && !s.signed:
			return remarks, hint.Errorf("remove "+file+" in the container, or the entry in it: the repository is set up with NVIDIA's own keyring package",
				"%s in the container has the repository %s already, with another key than %s; apt refuses two keys for one repository", file, uri, keyringFile)
		case sameRepo(s.uri, repo):
			remarks = append(remarks, fmt.Sprintf("%s in the container has the repository %s too; apt warns of the second entry, else it is harmless", file, uri))
		case strings.Contains(s.uri, "/compute/cuda/repos/"):
			remarks = append(remarks, fmt.Sprintf("%s in the container has another CUDA repository, %s", file, uri))
		}
	}
	return remarks, nil
}
