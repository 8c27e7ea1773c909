// Package cudatest builds, for tests, an apt repository that looks like
// NVIDIA's for CUDA: packages that stand for toolkit, driver and libraries, a
// keyring package, signed with a throwaway key.
package cudatest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Package is a Debian package to build.
type Package struct {
	Name      string
	Version   string
	Depends   string // as in the control file
	Obsoletes string // rpm only
	Files     map[string]string
	Exec      []string // of Files, with mode 0755
	Conffiles []string
	Preinst   string // shell text, without #!
	Postinst  string
	Postrm    string
}

// File is the package's file name.
func (p Package) File() string { return p.Name + "_" + p.Version + "_all.deb" }

func (p Package) control() string {
	size := 0
	for _, text := range p.Files {
		size += len(text)/1024 + 1
	}
	c := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nInstalled-Size: %d\n", p.Name, p.Version, size)
	if p.Depends != "" {
		c += "Depends: " + p.Depends + "\n"
	}
	return c + "Section: devel\nPriority: optional\nDescription: stands for a package of NVIDIA's\n"
}

// Deb builds the package (man 5 deb): an ar archive of two tar files.
func (p Package) Deb() []byte {
	meta := map[string]string{"control": p.control()}
	var scripts []string
	for name, text := range map[string]string{"preinst": p.Preinst, "postinst": p.Postinst, "postrm": p.Postrm} {
		if text != "" {
			meta[name] = "#!/bin/sh\nset -e\n" + text + "\n"
			scripts = append(scripts, name)
		}
	}
	if len(p.Conffiles) > 0 {
		meta["conffiles"] = strings.Join(p.Conffiles, "\n") + "\n"
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar.gz", tarball(meta, scripts)},
		{"data.tar.gz", tarball(p.Files, p.Exec)},
	} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.data))
		out.Write(member.data)
		if len(member.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func tarball(files map[string]string, exec []string) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	made := map[string]bool{}
	var mkdir func(dir string)
	mkdir = func(dir string) {
		if made[dir] {
			return
		}
		name := "./"
		if dir != "." {
			mkdir(path.Dir(dir))
			name += dir + "/"
		}
		made[dir] = true
		put(w, &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, "")
	}
	mkdir(".")
	for _, name := range slices.Sorted(maps.Keys(files)) {
		rel := strings.TrimPrefix(name, "/")
		mkdir(path.Dir(rel))
		mode := int64(0o644)
		if slices.Contains(exec, name) {
			mode = 0o755
		}
		put(w, &tar.Header{Typeflag: tar.TypeReg, Name: "./" + rel, Mode: mode, Size: int64(len(files[name]))}, files[name])
	}
	w.Close()
	zip.Close()
	return out.Bytes()
}

// put writes a member; writing to memory cannot fail.
func put(w *tar.Writer, h *tar.Header, text string) {
	h.Format = tar.FormatGNU
	h.ModTime = time.Unix(1700000000, 0)
	_ = w.WriteHeader(h)
	_, _ = w.Write([]byte(text))
}
