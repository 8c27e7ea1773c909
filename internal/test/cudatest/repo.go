package cudatest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Key is a throwaway signing key.
type Key struct {
	home   string
	Public []byte // as apt's keyrings hold it
}

// NewKey makes a key below dir with gpg.
func NewKey(ctx context.Context, dir string) (*Key, error) {
	k := &Key{home: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer k.stopAgent()
	if _, err := k.gpg(ctx, nil, "--quick-gen-key", "CUDA test <nobody@example.org>", "ed25519", "sign", "never"); err != nil {
		return nil, err
	}
	var err error
	k.Public, err = k.gpg(ctx, nil, "--export")
	return k, err
}

func (k *Key) gpg(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", k.home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gpg %s: %w: %s", args[0], err, said.String())
	}
	return out, nil
}

// stopAgent ends the agent that gpg leaves running for the key's folder.
func (k *Key) stopAgent() {
	_ = exec.Command("gpgconf", "--homedir", k.home, "--kill", "all").Run()
}

// Sign returns text clear-signed, as an InRelease file is.
func (k *Key) Sign(ctx context.Context, text []byte) ([]byte, error) {
	defer k.stopAgent()
	return k.gpg(ctx, text, "--digest-algo", "SHA512", "--clearsign")
}

// Write fills dir with a flat repository of packages, signed with key.
func Write(ctx context.Context, dir string, key *Key, packages []Package) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index bytes.Buffer
	for _, p := range packages {
		deb := p.Deb()
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", p.control(), p.File(), len(deb), sha256.Sum256(deb))
		if err := os.WriteFile(filepath.Join(dir, p.File()), deb, 0o644); err != nil {
			return err
		}
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write(index.Bytes())
	zip.Close()

	var release strings.Builder
	fmt.Fprintf(&release, "Origin: NVIDIA\nLabel: NVIDIA CUDA\nArchitecture: x86_64\nDate: %s\n", time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	files := map[string][]byte{"Packages": index.Bytes(), "Packages.gz": zipped.Bytes()}
	release.WriteString("MD5Sum:\n")
	for name, data := range files {
		fmt.Fprintf(&release, " %x %d %s\n", md5.Sum(data), len(data), name)
	}
	release.WriteString("SHA256:\n")
	for name, data := range files {
		fmt.Fprintf(&release, " %x %d %s\n", sha256.Sum256(data), len(data), name)
	}
	signed, err := key.Sign(ctx, []byte(release.String()))
	if err != nil {
		return err
	}
	files["InRelease"] = signed
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
