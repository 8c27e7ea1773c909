package runfile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
)

func TestHeaderSaysWhatTheFileIs(t *testing.T) {
	file := spec{payload: []byte("PAYLOAD"), options: []string{"-s, --silent", "--systemd, --no-systemd"}}.build()
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(file), "byte by byte": iotest.OneByteReader(bytes.NewReader(file))} {
		h, err := ReadHeader(r)
		require.NoError(t, err, name)
		require.Equal(t, version.Driver("550.163.01"), h.Version)
		require.Equal(t, "x86_64", h.Arch)
		require.Equal(t, "./nvidia-installer", h.Script)
		require.Equal(t, "NVIDIA-Linux-x86_64-550.163.01", h.TargetDir)
		require.Len(t, h.MD5, 32)
		require.Equal(t, "PAYLOAD", string(file[h.Payload:]))
		require.Equal(t, h.Skip, 1+bytes.Count(file[:h.Payload], []byte("\n")))
		require.Equal(t, []string{"--no-systemd", "--silent", "--systemd"}, h.Options,
			"neither descriptions nor the binary part may add options")
	}
}

const plain = "#! /bin/sh\nCRCsum=1\nMD5=37f3c14e0d2b93184ca90cc551257965\nskip=12\n"

func TestHeaderLayouts(t *testing.T) {
	label := `label="NVIDIA Accelerated Graphics Driver for Linux-x86_64 %s"` + "\n"
	for _, c := range []struct{ name, text, version, arch string }{
		{"old order", "#! /bin/sh\nskip=14\nCRCsum=77\nMD5=37F3C14E0D2B93184CA90CC551257965\n" + fmt.Sprintf(label, "390.157") +
			"major_version=390\nminor_version=157\npatch_version=\nscript=./nvidia-installer\n", "390.157", "x86_64"},
		{"parts only", plain + fmt.Sprintf(label, "") + "major_version=470\nminor_version=256\npatch_version=02\nscript='./nvidia-installer'\n", "470.256.02", "x86_64"},
		{"no space after #!", strings.Replace(plain, "#! ", "#!", 1) + fmt.Sprintf(label, "580.142") + "script=x\nversion_string=\"580.142\"\n", "580.142", "x86_64"},
		{"grid in version", plain + fmt.Sprintf(label, "535.104.05-grid") + "script=x\nversion_string=535.104.05-grid\n", "535.104.05", "x86_64"},
		{"no-compat32 in folder", plain + fmt.Sprintf(label, "610.57.04") + "script=x\ntargetdir=NVIDIA-Linux-x86_64-610.57.04-no-compat32\n", "610.57.04", "x86_64"},
		{"arm", plain + strings.Replace(fmt.Sprintf(label, "580.76.05"), "x86_64", "aarch64", 1) + "script=x\nTARGET_ARCH=\"aarch64\"\n", "580.76.05", "aarch64"},
	} {
		h, err := ReadHeader(strings.NewReader(c.text + strings.Repeat("\n", 20)))
		require.NoError(t, err, c.name)
		require.Equal(t, version.Driver(c.version), h.Version, c.name)
		require.Equal(t, c.arch, h.Arch, c.name)
	}
}

func TestWrongHeaderIsNamed(t *testing.T) {
	good := string(spec{}.build())
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, text, says string }{
		{"empty", "", "the file is empty"},
		{"page", "<!DOCTYPE html>\n<html><body>Sign in", "starts with <!DOCTYPE html>: a web page, not a run file"},
		{"page behind a mark", "\xef\xbb\xbf \n<HTML lang=\"en\">", "a web page"},
		{"xml", "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "a web page or XML"},
		{"json", `{"error":"not found"}`, "JSON, not a run file"},
		{"program", "\x7fELF\x02\x01", "7f454c460201: a program"},
		{"zeros", strings.Repeat("\x00", 4096), "zero bytes"},
		{"text", "404: Not Found", "starts with 404: Not Found: not a run file"},
		{"escape", "\x1b[2J\x1b[1;1H", "starts with 1b5b324a1b5b: not a run file"},
		{"another script", "#!/bin/bash\necho", "starts with #!/bin/bash: a script"},
		{"any script", "#!/bin/sh\necho hello\n", "without the fields"},
		{"long script", "#!/bin/sh\n" + strings.Repeat("echo\n", 3000), "without the fields"},
		{"other product", swap("NVIDIA Accelerated Graphics Driver for Linux-x86_64", "CUDA Toolkit"), "is not that of an NVIDIA driver"},
		{"32 bit", strings.ReplaceAll(good, "x86_64", "x86"), `the file is for "x86"`},
		{"two architectures", swap(`TARGET_ARCH="x86_64"`, `TARGET_ARCH="aarch64"`), "contradicts itself"},
		{"two versions", swap("version_string=550.163.01", "version_string=550.90.07"), "contradicts itself"},
		{"bad version", strings.ReplaceAll(good, "550.163.01", "5x"), "not a driver version"},
		{"no script", swap("script=./nvidia-installer", "scrapt=x"), "no script"},
		{"no md5", swap("MD5=", "MD4="), "no MD5"},
		{"expansion", swap("version_string=550.163.01", "version_string=$(id)"), "not a plain value"},
		{"open quote", swap(`label="`, `label='`), "not a plain value"},
		{"skip backwards", regexpSkip(good, "2"), "skip=\"2\" is no line behind it"},
		{"skip negative", regexpSkip(good, "-9"), "is no line behind it"},
		{"skip huge", regexpSkip(good, "99999999999999"), "is no line behind it"},
		{"skip not reached", regexpSkip(good, "4000000"), "before its payload at line 4000000"},
		{"skip too far", regexpSkip(good, "4000") + strings.Repeat("x", maxHeader), "header of more than 4194304 bytes"},
	} {
		_, err := ReadHeader(strings.NewReader(c.text))
		require.ErrorContains(t, err, c.says, c.name)
		require.ErrorIs(t, err, ErrContent, c.name)
		require.NotContains(t, err.Error(), "\x1b", c.name)
	}
	_, err := ReadHeader(strings.NewReader("<!doctype html>"))
	require.NotEmpty(t, hint.Of(err))
}

func regexpSkip(file, n string) string {
	i := strings.Index(file, "skip=") + len("skip=")
	return file[:i] + n + file[i+strings.IndexByte(file[i:], '\n'):]
}

func TestHeaderKeepsTheReadersError(t *testing.T) {
	file := spec{}.build()
	for _, cut := range []int{0, 5, 300, len(file) - 3} {
		_, err := ReadHeader(io.MultiReader(bytes.NewReader(file[:cut]), iotest.ErrReader(io.ErrClosedPipe)))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NotErrorIs(t, err, ErrContent)
	}
}

func TestHeaderReadsABoundedPart(t *testing.T) {
	endless := io.MultiReader(strings.NewReader(regexpSkip(string(spec{}.build()), "9999")), endless{})
	count := &counter{r: endless}
	_, err := ReadHeader(count)
	require.ErrorIs(t, err, ErrContent)
	require.LessOrEqual(t, count.n, int64(maxHeader))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func TestCheckNamesBothValues(t *testing.T) {
	h := Header{Version: "580.76.05", Arch: "x86_64"}
	require.NoError(t, h.Check(Want{Version: "580.76.05", Arch: "x86_64"}))
	require.NoError(t, h.Check(Want{}))
	err := h.Check(Want{Version: "580.142"})
	require.EqualError(t, err, "the file is driver version 580.76.05, wanted 580.142")
	require.ErrorIs(t, err, ErrContent)
	require.EqualError(t, h.Check(Want{Arch: "aarch64"}), "the file is for x86_64, wanted aarch64")
}

func FuzzHeader(f *testing.F) {
	f.Add(spec{payload: []byte("x"), options: []string{"-s, --silent"}}.build())
	f.Add([]byte(plain))
	f.Add([]byte("<!DOCTYPE html>"))
	f.Add([]byte("#! /bin/sh\nskip=3\nlabel='\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			require.ErrorIs(t, err, ErrContent)
			return
		}
		require.LessOrEqual(t, h.Payload, int64(len(b)))
		require.Equal(t, h.Skip-1, bytes.Count(b[:h.Payload], []byte("\n")))
		_, err = version.Parse(string(h.Version))
		require.NoError(t, err)
		require.LessOrEqual(t, len(h.Options), maxOptions)
	})
}

func TestVGPUHostDriverIsKnownByItsNameOrFolder(t *testing.T) {
	ordinary := Header{Label: "NVIDIA Accelerated Graphics Driver for Linux-x86_64 550.144.02", TargetDir: "NVIDIA-Linux-x86_64-550.144.02"}
	require.False(t, ordinary.VGPUHost("/root/vgpu-kvm/NVIDIA-Linux-x86_64-550.144.03.run"))
	require.False(t, ordinary.VGPUHost("NVIDIA-Linux-x86_64-550.144.03-grid.run"), "for the guests of a vGPU host")
	require.True(t, ordinary.VGPUHost("/root/NVIDIA-Linux-x86_64-550.144.02-vgpu-kvm.run"))
	require.True(t, Header{TargetDir: "NVIDIA-Linux-x86_64-550.144.02-vgpu-kvm"}.VGPUHost("/root/renamed.run"))
}
