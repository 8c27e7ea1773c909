package lxc

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// What a command in the container prints: lines that do no harm, the same
// however the output comes in, and the end of it in bounded memory.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("a\x1b[31mred\x1b[0m\tb\n\r10%\r20%\r\n\n\xff\xc2\x9bx\xe2\x80\xaey\nlast"), uint16(3), uint16(7))
	f.Add([]byte(strings.Repeat("x", lineLimit-1)+"größe\n\x1b]0;title\x07\x1b[999999999999"), uint16(1), uint16(1))
	f.Add([]byte(strings.Repeat("\x1b[\x1b", 300)+"\u2028\u200f\u2066\U000e0001\ufeff"), uint16(0), uint16(0))
	f.Add([]byte(strings.Repeat("line\n", 300)), uint16(64), uint16(10))
	f.Fuzz(func(t *testing.T, out []byte, cut, keep uint16) {
		if len(out) > 1<<16 {
			return
		}
		read := func(piece int) (lines []string, kept stream) {
			to := newOutput(Cmd{OnLine: func(line string) { lines = append(lines, line) }})
			to.stdout.keep = int(keep)
			for rest := out; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
				_, err := to.stdout.Write(rest[:min(piece, len(rest))])
				require.NoError(t, err)
				require.LessOrEqual(t, len(to.stdout.buf), 2*to.stdout.keep)
			}
			to.finish()
			_, err := to.stdout.Write([]byte("late"))
			require.Error(t, err)
			return lines, to.stdout
		}
		whole, kept := read(len(out))
		require.True(t, bytes.Equal(out[max(0, len(out)-int(keep)):], kept.tail()))
		for _, line := range whole {
			require.LessOrEqual(t, len(line), lineLimit+len(`\U0010ffff...`))
			require.Equal(t, line, say.Clean(line, 2*lineLimit), "what is clean stays as it is")
		}
		if bytes.Count(out, []byte{'\n'})+bytes.Count(out, []byte{'\r'}) >= linesBurst {
			return // lines are left out, by the clock
		}
		pieces, kept := read(1 + int(cut)%1000)
		require.Equal(t, whole, pieces)
		require.True(t, bytes.Equal(out[max(0, len(out)-int(keep)):], kept.tail()))
	})
}

// An id of the container is one of its ids on the host, and no other is.
func FuzzIDMap(f *testing.F) {
	f.Add("         0     100000      65536\n", int64(0))
	f.Add("0 0 4294967295\n", int64(65534))
	f.Add("0 100000 1000\n1000 1000 1\n1001 101001 64535\n", int64(1000))
	f.Add("0 -9223372036854775808 1\n", int64(0))
	f.Add("-9223372036854775808 1 9223372036854775807\n", int64(math.MaxInt64))
	f.Add("0x10 0b1 1_000\n", int64(16))
	f.Fuzz(func(t *testing.T, text string, id int64) {
		m, err := parseIDMap(text)
		if err != nil {
			require.Nil(t, m)
			return
		}
		require.LessOrEqual(t, len(m), len(text))
		var again strings.Builder
		for _, r := range m {
			fmt.Fprintf(&again, "%10d %10d %10d\n", r.inside, r.host, r.count)
			for _, n := range []int64{r.inside, r.host, r.count} {
				require.True(t, n >= 0 && n <= math.MaxUint32, "%d", n)
			}
			if r.count > 0 {
				last := r.inside + r.count - 1
				host, ok := m.toHost(last)
				require.True(t, ok && m.hasHost(host))
				require.True(t, m.hasHost(r.host) && m.hasHost(r.host+r.count-1))
			}
		}
		same, err := parseIDMap(again.String())
		require.NoError(t, err)
		require.Equal(t, m, same)
		inside := false
		for _, r := range m {
			inside = inside || r.count > 0 && id >= r.inside && id <= r.inside+(r.count-1)
		}
		host, ok := m.toHost(id)
		require.Equal(t, inside, ok)
		require.True(t, !ok || m.hasHost(host))
	})
}

// mangle writes a name as the kernel does in a mountinfo.
var mangle = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace

func fuseMinors(mountinfo string) map[string]bool {
	minors := map[string]bool{}
	_ = scanMounts(strings.NewReader(mountinfo), func(m mount) bool {
		if minor := m.fuseMinor(); minor != "" {
			minors[minor] = true
		}
		return true
	})
	return minors
}

// Whatever names a container gives to its mounts, its FUSE file systems are
// found by their numbers, and nothing else is taken for one.
func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n", "/mnt/x", "sshfs", "me@host:/", uint32(53))
	f.Add("40 35 0:41 / / rw - fuseblk /dev/sda1 rw\n41 35 0: / / rw - fuse x rw\n42 0:7 - fuse\n", "/a - fuse.b", " - fuse x", "- fuse", uint32(0))
	f.Add("40 35 0:41 / /x rw - overlay x rw,lowerdir="+strings.Repeat("/l:", 200_000)+"\n", "/y", "", "x", uint32(9))
	f.Add("", "/\u00a0\r\v\u2028", "\u0085", "", uint32(1<<20-1))
	f.Add(" - ", "", "", " - ", uint32(7))
	f.Fuzz(func(t *testing.T, other, point, subtype, source string, minor uint32) {
		for m := range fuseMinors(other) {
			require.NotEmpty(t, m)
			require.Empty(t, strings.Trim(m, "0123456789"), "a folder of %s", fuseControl)
			require.Contains(t, other, "0:"+m)
		}
		line := func(id uint32, kind string) string {
			return fmt.Sprintf("36 35 0:%d %s %s rw,nosuid shared:1 - %s %s rw,user_id=0\n", id, "/"+mangle(source), "/"+mangle(point), kind, mangle(source))
		}
		if other != "" && !strings.HasSuffix(other, "\n") {
			other += "\n"
		}
		want := fuseMinors(other)
		for _, kind := range []string{"ext4", "tmpfs", "fuseblk", "fusectl", "nfs." + mangle(subtype)} {
			require.Equal(t, want, fuseMinors(other+line(minor, kind)))
		}
		want[fmt.Sprint(minor)] = true
		for _, kind := range []string{"fuse", "fuse." + mangle(subtype)} {
			require.Equal(t, want, fuseMinors(other+line(minor, kind)))
			require.Equal(t, want, fuseMinors(line(minor, kind)+other))
		}
	})
}
