package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// keyringFile is where NVIDIA's cuda-keyring package keeps the repository's key.
const keyringFile = "/usr/share/keyrings/cuda-archive-keyring.gpg"

// ownList is apt's list of the repository where it is another than the one that
// cuda-keyring's own list names (a mirror).
const ownList = "/etc/apt/sources.list.d/pve-nvidia-hook-cuda.list"

const sourcesDir = "/etc/apt/sources.list.d"

// source is one URL of one entry of apt's source lists.
type source struct {
	file     string
	uri      string
	signedBy string // "" when the entry has none; "(embedded key)" for one within the file
}

// parseList reads the one-line format of sources.list(5).
func parseList(file, text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 3 || (f[0] != "deb" && f[0] != "deb-src") {
			continue
		}
		s := source{file: file}
		f = f[1:]
		if strings.HasPrefix(f[0], "[") {
			for len(f) > 0 {
				option := strings.TrimSuffix(strings.TrimPrefix(f[0], "["), "]")
				last := strings.HasSuffix(f[0], "]")
				if key, value, _ := strings.Cut(option, "="); strings.EqualFold(key, "signed-by") {
					s.signedBy = value
				}
				f = f[1:]
				if last {
					break
				}
			}
		}
		if len(f) > 0 {
			s.uri = f[0]
			all = append(all, s)
		}
	}
	return all
}

// parseSources reads the deb822 format of sources.list(5).
func parseSources(file, text string) []source {
	var all []source
	for _, stanza := range strings.Split(strings.ReplaceAll(text, "\r", ""), "\n\n") {
		fields := map[string]string{}
		last := ""
		for line := range strings.Lines(stanza) {
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				fields[last] += "\n" + strings.TrimSpace(line)
				continue
			}
			key, value, ok := strings.Cut(line, ":")
			if ok {
				last = strings.ToLower(strings.TrimSpace(key))
				fields[last] = strings.TrimSpace(value)
			}
		}
		switch strings.ToLower(fields["enabled"]) {
		case "no", "false", "0", "off", "without", "disable":
			continue
		}
		signedBy := strings.TrimSpace(fields["signed-by"])
		if strings.Contains(signedBy, "BEGIN PGP") {
			signedBy = "(embedded key)"
		}
		for _, uri := range strings.Fields(fields["uris"]) {
			all = append(all, source{file, uri, signedBy})
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
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the container's %s: %w", file, err)
		}
		if path.Ext(file) == ".sources" {
			all = append(all, parseSources(file, string(text))...)
		} else {
			all = append(all, parseList(file, string(text))...)
		}
	}
	return all, nil
}

// judgeSources looks for remains of a repository set up by hand. For one
// repository apt accepts one Signed-By only, and refuses all work otherwise. ours
// are the files that this program or cuda-keyring put there.
func judgeSources(all []source, repo string, ours func(file string) bool) (remarks []string, err error) {
	for _, s := range all {
		if ours(s.file) {
			continue
		}
		file, uri := say.Clean(s.file, 200), say.Clean(s.uri, 200)
		switch {
		case sameRepo(s.uri, repo) && s.signedBy != keyringFile:
			by := say.Clean(s.signedBy, 200)
			if by == "" {
				by = "no Signed-By"
			}
			return remarks, hint.Errorf("remove "+file+" in the container, or the entry in it: the repository is set up with NVIDIA's own keyring package",
				"%s in the container has the repository %s already, with another key (%s); apt refuses two keys for one repository", file, uri, by)
		case sameRepo(s.uri, repo):
			remarks = append(remarks, fmt.Sprintf("%s in the container has the repository %s too; apt warns of the second entry, else it is harmless", file, uri))
		case strings.Contains(s.uri, "/compute/cuda/repos/"):
			remarks = append(remarks, fmt.Sprintf("%s in the container has another CUDA repository, %s", file, uri))
		}
	}
	return remarks, nil
}
