package say

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

func TestEveryLineNamesProgramAndContainer(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "text", "debug")
	require.NoError(t, err)
	log = log.For(101)
	log.Infof("one\ntwo")
	log.Warnf("careful")
	log.Debugf("detail")
	log.Fail(hint.Errorf("do this", "it broke"))
	log.Fail(errors.Join(errors.New("first"), errors.New("second")))
	require.Equal(t, `pve-nvidia-hook 101: one two
pve-nvidia-hook 101: warning: careful
pve-nvidia-hook 101: debug: detail
pve-nvidia-hook 101: error: it broke
pve-nvidia-hook 101: hint: do this
pve-nvidia-hook 101: error: first
pve-nvidia-hook 101: error: second
`, out.String())
}

func TestJSONLines(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "json", "")
	require.NoError(t, err)
	log.For(101).With("step", "").Infof("hello")
	log.Debugf("not at this level")
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "hello", line["msg"])
	require.EqualValues(t, 101, line["vmid"])
	require.NotContains(t, line, "step", "there is none")
}

func TestUnknownNamesAreRefused(t *testing.T) {
	_, err := New(nil, "xml", "")
	require.ErrorContains(t, err, "allowed: text, json")
	_, err = New(nil, "text", "loud")
	require.ErrorContains(t, err, "allowed: debug")
}

func TestCleanTakesTheHarmOutOfText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":              "plain",
		"\uFFFD is a rune":   "\uFFFD is a rune",
		"a\tb\r\nc":          "a b  c",
		"\x1b]0;title\x07":   `\x1b]0;title\a`,
		"\x1b[2J\x1b[1;31mx": `\x1b[2J\x1b[1;31mx`,
		"\xff\xfe":           `\xff\xfe`,
		"a\u202eb":           `a\u202eb`,
		"\u009b31m":          `\u009b31m`,
		"größe":              "größe",
	} {
		require.Equal(t, want, Clean(in, 1000), "%q", in)
	}
	require.Equal(t, "xxxxx...", Clean(strings.Repeat("x", 100), 5))
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\xff\u202e", 200)
	f.Add(strings.Repeat("größe \u2028\ufeff\U000e0001\x80", 50), 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, limit%1000)
		said := Clean(s, limit)
		require.Less(t, len(said), limit+len(`\U0010ffff`)+len("..."))
		for _, r := range said {
			require.True(t, strconv.IsPrint(r), "%U left of %q", r, s)
		}
		whole := Clean(s, 10*len(s)+1)
		require.Equal(t, whole, Clean(whole, 10*len(whole)+1), "what is clean stays as it is")
		if strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) < 0 {
			require.Equal(t, s, Clean(s, len(s)+1))
		}
	})
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{999: "999 B", 2048: "2 kB", 2527778: "2.5 MB", 9999999: "9.9 MB", 10000000: "10 MB", 393683997: "393 MB", 1808865280: "1.8 GB"} {
		require.Equal(t, want, Bytes(n))
	}
}

func ExampleBytes() {
	fmt.Println(Bytes(393683997))
	// Output: 393 MB
}

// JSON escapes only what is below 0x20.
func TestMessagesInJSONAreHarmlessToo(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "json", "info")
	require.NoError(t, err)
	log.Info("a\u009b2J\u202eb\u007f" + strings.Repeat("x", 10_000))
	require.NotContains(t, out.String(), "\u009b")
	require.NotContains(t, out.String(), "\u202e")
	require.NotContains(t, out.String(), "\u007f")
	require.Less(t, out.Len(), 3000)
}
