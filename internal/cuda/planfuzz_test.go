package cuda

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cudapkg"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/lxc"
)

// requireHarmless fails when a text could do something to a terminal, or is longer than most bytes.
func requireHarmless(t *testing.T, text string, most int) {
	t.Helper()
	require.LessOrEqual(t, len(text), most)
	require.True(t, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(t, unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), "%q", text)
	}
}

// oneTool is a container in which every command prints the same.
type oneTool struct {
	Container // what nobody should call
	code      int
	stdout    string
	acted     []string // commands that change something
}

func (c *oneTool) Run(_ context.Context, cmd lxc.Cmd) (lxc.Result, error) {
	if !slices.ContainsFunc(cmd.Args, func(a string) bool {
		return slices.Contains([]string{"-s", "--print-uris", "--assumeno", "--dry-run"}, a)
	}) {
		c.acted = append(c.acted, strings.Join(cmd.Args, " "))
		return lxc.Result{}, nil
	}
	for line := range strings.Lines(c.stdout) {
		cmd.OnLine(strings.TrimRight(line, "\n"))
	}
	return lxc.Result{Code: c.code, Stdout: []byte(c.stdout)}, nil
}

func (c *oneTool) Free(string) (uint64, error)           { return 100 << 30, nil }
func (c *oneTool) ReadDir(string, int) ([]string, error) { return nil, nil }

// aptText, dnfText and zypperText write a plan as the tools print it. text is
// what a repository says of a package.
func aptText(p plan, text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, text)
	var b strings.Builder
	b.WriteString("Reading package lists...\nBuilding dependency tree...\n")
	for _, n := range p.fresh {
		fmt.Fprintf(&b, "Inst %s (12.8.1-1 %s [amd64])\n", n, text)
	}
	for _, n := range p.newer {
		fmt.Fprintf(&b, "Inst %s [1.0] (12.8.1-1 %s [amd64]) []\n", n, text)
	}
	for _, n := range slices.Concat(p.fresh, p.newer) {
		fmt.Fprintf(&b, "Conf %s (12.8.1-1 %s [amd64])\n", n, text)
	}
	return b.String()
}

func dnfText(p plan, _ string) string {
	var b strings.Builder
	b.WriteString("Dependencies resolved.\n====\n Package Arch Version Repository Size\n====\n")
	section := func(title string, names []string) {
		if len(names) == 0 {
			return
		}
		b.WriteString(title + ":\n")
		for _, n := range names {
			if len(n) > 23 { // dnf 4 goes on in the next line
				n += "\n" + strings.Repeat(" ", 24)
			}
			fmt.Fprintf(&b, " %-23s x86_64 12.8.1-1     pve-nvidia-hook-cuda  3.1 k\n", n)
		}
	}
	half := len(p.fresh) / 2
	section("Installing", p.fresh[:half])
	section("Installing dependencies", p.fresh[half:])
	section("Upgrading", p.newer)
	b.WriteString("\nTransaction Summary\n====\nInstall  4 Packages\n")
	return b.String()
}

// zypperText follows Summary::dumpAsXmlTo of zypper, where a package has its
// description within.
func zypperText(p plan, text string) string {
	var escaped, b strings.Builder
	if err := xml.EscapeText(&escaped, []byte(text)); err != nil {
		panic(err)
	}
	section := func(tag string, names []string) {
		fmt.Fprintf(&b, "<%s>\n", tag)
		for i, n := range names {
			fmt.Fprintf(&b, `<solvable type="package" name="%s" edition="12.8.1-1" arch="x86_64" summary="%s"`, n, &escaped)
			if text == "" || i%3 == 2 {
				b.WriteString("/>\n")
			} else {
				fmt.Fprintf(&b, ">\n<description>%s</description></solvable>\n", &escaped)
			}
		}
		fmt.Fprintf(&b, "</%s>\n", tag)
	}
	b.WriteString("<?xml version='1.0'?>\n<stream>\n<install-summary download-size=\"1\" space-usage-diff=\"2\">\n")
	half := len(p.newer) / 2
	section("to-upgrade", p.newer[:half])
	section("to-install", p.fresh)
	section("to-change-vendor", p.newer[half:])
	b.WriteString("</install-summary>\n</stream>\n")
	return b.String()
}

// someDriver are driver packages of all kinds.
var someDriver = strings.Fields(`cuda cuda-12-8 cuda-drivers cuda-drivers-570 cuda-runtime-12-8 nvidia-open nvidia-open-570 nvidia-driver nvidia-driver-570
	nvidia-driver-cuda-libs nvidia-kernel-dkms nvidia-smi nvidia-persistenced nvidia-modprobe libcuda1 libnvidia-compute-570 libnvidia-ml1 libnvidia-ml
	nvidia-utils-570 nvidia-compute-utils-570 nvidia-headless-570 kmod-nvidia-open-dkms nvidia-compute-G06 xorg-x11-drv-nvidia-cuda-libs nvidia-gl-G06`)

// Whatever a package tool prints around a plan, and whatever a repository says
// of its packages: no package of the plan is overlooked, and with one of the
// driver anywhere in it nothing is installed.
func FuzzPlanWithADriverPackageIsRefused(f *testing.F) {
	f.Add("cuda-toolkit-12-8 cuda-nvcc-12-8 libgcc", "", "", uint8(0), uint8(0), false)
	f.Add("cuda-toolkit-12-8 cuda-toolkit-12-8-config-common gcc libgcc_s1", "NVIDIA CUDA <b>\"tools\"</b>", "", uint8(1), uint8(19), false)
	f.Add("a b c d e f", "x", dnf4Plan, uint8(2), uint8(14), true)
	f.Add("a b", "to-install>", zypperPlan, uint8(255), uint8(21), false)
	f.Add("libc6 libstdc++6", "NVIDIA CUDA:12.8", "Inst old [1] (2 x [all])\nRemv gone [1]\nNeed to get 1 MB of archives.\nAfter this operation, 1 GB of additional disk space will be used.\n", uint8(7), uint8(1), false)
	f.Add("", "", "E: Unable to correct problems\n a : Depends: libcuda1 but it is not installable\n", uint8(0), uint8(0), true)
	f.Add("x", "", "Installing:\n \t\n", uint8(0), uint8(0), false)
	f.Fuzz(func(t *testing.T, names, said, around string, at, which uint8, failed bool) {
		var p plan
		for i, n := range strings.Fields(names) {
			if i == 30 || !addedForm().MatchString(n) || cudapkg.IsDriver(n) || strings.Contains(n, ":") {
				continue
			}
			if i%3 == 2 {
				p.newer = append(p.newer, n)
			} else {
				p.fresh = append(p.fresh, n)
			}
		}
		bad := plan{fresh: slices.Clone(p.fresh), newer: slices.Clone(p.newer)}
		into := &bad.fresh
		if which&0x80 != 0 {
			into = &bad.newer
		}
		*into = slices.Insert(*into, int(at)%(len(*into)+1), someDriver[int(which&0x7f)%len(someDriver)])

		before, after := "", around
		if at%2 == 1 && around != "" {
			before, after = around+"\n", ""
		}
		asked := []string{"cuda-toolkit-12-8"}
		for _, c := range []struct {
			tool  string
			write func(p plan, text string) string
			read  func(text string) plan
		}{
			{toolApt, aptText, parsePlan},
			{toolDnf, dnfText, parseDnf},
			{toolZypper, zypperText, parseZypper},
		} {
			tool, write := c.tool, c.write
			try := func(p plan) (job, []string, error) {
				c := &oneTool{stdout: before + write(p, said) + after}
				if failed || tool == toolDnf { // dnf ends with 1 when it is told to say no
					c.code = 1
				}
				j, cancel := newJob(context.Background(), c, Want{Timeout: time.Hour}, &logged{})
				defer cancel()
				j.distro.Tool = tool
				err := j.installPackages(j.ctx, j.manager(), asked)
				return *j, c.acted, err
			}
			got := c.read(before + write(p, said) + after)
			if around == "" {
				got := plan{fresh: got.fresh, newer: got.newer, remove: got.remove}
				require.Equal(t, p, got, tool)
			}
			require.Subset(t, append(got.fresh, ""), append(p.fresh, ""), tool)
			require.Subset(t, append(got.newer, ""), append(p.newer, ""), tool)

			j, acted, err := try(p)
			require.True(t, j.in.sane(), "what is recorded would not be believed: %+v", j.in)
			if err != nil {
				require.Empty(t, acted, tool)
				requireHarmless(t, err.Error()+hint.Of(err), 4000)
			} else {
				require.Equal(t, !got.empty(), len(acted) > 0, tool)
				require.False(t, failed && tool != toolDnf, tool)
			}

			_, acted, err = try(bad)
			require.Error(t, err, tool)
			require.Empty(t, acted, tool)
			requireHarmless(t, err.Error()+hint.Of(err), 4000)
			if !failed || tool == toolDnf {
				require.ErrorContains(t, err, "driver package", tool)
			}
		}
	})
}
