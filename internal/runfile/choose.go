package runfile

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

// Choose returns the manifest of an unpacked tree that names only what the given
// capabilities need: the entries that Has names, and the libraries of the same
// driver that these need by their ELF headers. An installer that is handed it
// instead of the tree's own installs, logs and later removes just that.
func (m Manifest) Choose(tree string, wanted []Capability) (Manifest, error) {
	kept := make([]bool, len(m.Entries))
	var look []int // kept, and not looked into yet
	keep := func(i int) {
		if !kept[i] {
			kept[i] = true
			look = append(look, i)
		}
	}
	type library struct {
		name     string // file or link, without folders
		compat32 bool
	}
	named := map[library][]int{}
	for i, e := range m.Entries {
		if !kernel(e) && Has(e, wanted) {
			keep(i)
		}
		lib := library{path.Base(e.Path), e.Compat32}
		named[lib] = append(named[lib], i)
	}
	for ; len(look) > 0; look = look[1:] {
		e := m.Entries[look[0]]
		needs := []string{path.Base(e.Target)}
		if !e.IsLink() {
			var err error
			if needs, err = Needs(filepath.Join(tree, e.Path)); err != nil {
				return Manifest{}, err
			}
		}
		for _, name := range needs {
			for _, i := range named[library{name, e.Compat32}] {
				if !kernel(m.Entries[i]) {
					keep(i)
				}
			}
		}
	}
	chosen := Manifest{Version: m.Version, head: m.head}
	for i, e := range m.Entries {
		if kept[i] {
			chosen.Entries, chosen.lines = append(chosen.Entries, e), append(chosen.lines, m.lines[i])
		}
	}
	return chosen, nil
}

// kernel tells the types of kernel modules, which no container gets.
func kernel(e Entry) bool { return strings.HasPrefix(e.Type, "KERNEL_MODULE") || e.Type == "DKMS_CONF" }

// Text is the manifest in the form that the installer reads.
func (m Manifest) Text() string {
	return strings.Join(m.head, "\n") + "\n" + strings.Join(m.lines, "\n") + "\n"
}

// Needs returns the names of the libraries that a file needs by its ELF header;
// none for a file that has no such header. It is for files of an unpacked tree.
func Needs(file string) ([]string, error) { return dynamic(file, elf.DT_NEEDED) }

// Soname returns the name by which programs ask for a library, as its ELF header
// tells; "" for a file that has none. It is for files of an unpacked tree.
func Soname(file string) (string, error) {
	names, err := dynamic(file, elf.DT_SONAME)
	if err != nil || len(names) == 0 || names[0] != path.Base(names[0]) || names[0] == "." || names[0] == ".." {
		return "", err
	}
	return names[0], nil
}

// dynamic returns the strings of one tag in a file's dynamic section.
func dynamic(file string, tag elf.DynTag) ([]string, error) {
	f, err := elf.Open(file)
	var format *elf.FormatError
	switch {
	case errors.As(err, &format), errors.Is(err, fs.ErrNotExist): // what is missing is found elsewhere
		return nil, nil
	case err != nil && strings.HasSuffix(err.Error(), "EOF"): // shorter than a header
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the ELF header of %s: %w", file, err)
	}
	defer f.Close()
	names, err := f.DynString(tag)
	if err != nil {
		return nil, nil // no dynamic section that can be read
	}
	return names, nil
}
