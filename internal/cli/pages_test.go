package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

var (
	inline  = regexp.MustCompile("`([^`]+)`|\\*\\*([^*]+)\\*\\*")
	pipe    = regexp.MustCompile(` (?:&&|\|) `)
	comment = regexp.MustCompile(`(^|\s+)#.*$|   .*$`) // an example's words stand after spaces
)

// parses checks a command line as it is written in a page: its command, its
// flags and, when it is whole, its arguments.
func parses(t *testing.T, line string, whole bool) (isOurs bool) {
	t.Helper()
	for part := range strings.SplitSeq(pipe.ReplaceAllString(comment.ReplaceAllString(strings.TrimSpace(line), ""), "\n"), "\n") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		root := Root()
		if words[0] != say.Program {
			if c, _, err := root.Find(words); whole || err != nil || c == root {
				continue
			}
			words = append([]string{say.Program}, words...)
		}
		if len(words) > 1 && strings.HasSuffix(words[1], ":") {
			continue // what a run has said: "pve-nvidia-hook 101: driver ..."
		}
		isOurs = true
		if len(words) == 1 || hook.IsCall(words[1:]) || strings.HasSuffix(words[1], ":") { // "101:" begins what it says
			continue
		}
		c, rest, err := root.Find(words[1:])
		require.NoError(t, err, line)
		require.NoError(t, c.ParseFlags(rest), line)
		if whole || c.HasSubCommands() {
			require.NoError(t, c.ValidateArgs(c.Flags().Args()), line)
		}
	}
	return isOurs
}

func TestCommandLinesInThePagesAreThoseOfTheProgram(t *testing.T) {
	pages := []string{"../../README.md", "../../SECURITY.md"}
	for _, pattern := range []string{"../../contrib/*/README.md", "../../docs/*.md", "../../packaging/man/*.md", "../../packaging/mkdocs/*.md"} {
		more, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, more, pattern)
		pages = append(pages, more...)
	}
	found := map[string]int{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		block := false
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "```") {
				block = !block
				continue
			}
			lines := []string{line}
			if !block {
				lines = nil
				for _, m := range inline.FindAllStringSubmatch(line, -1) {
					lines = append(lines, m[1]+m[2])
				}
			}
			for _, l := range lines {
				if parses(t, l, block) {
					found[page]++
				}
			}
		}
	}
	require.Greater(t, found["../../README.md"], 10)
}

func TestExamplesOfTheHelpAreCommandLinesOfTheProgram(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			require.True(t, parses(t, line, true), line)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(Root())
}

func TestHelpFitsIntoEightyColumns(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "completion" { // cobra's own
			return
		}
		var out strings.Builder
		c.SetOut(&out)
		require.NoError(t, c.Help())
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(line, "\n")
			require.LessOrEqual(t, utf8.RuneCountInString(line), 80, "%s: %s", c.CommandPath(), line)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	root := Root()
	root.InitDefaultHelpFlag()
	visit(root)
}

func TestHelpBeginsWithTheCallByProxmox(t *testing.T) {
	var out strings.Builder
	root := Root()
	root.SetOut(&out)
	require.NoError(t, root.Help())
	require.Contains(t, out.String(), "Usage:\n  pve-nvidia-hook VMID PHASE\n  pve-nvidia-hook [command]\n")
}
