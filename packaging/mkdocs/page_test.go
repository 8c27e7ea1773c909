package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cli"
)

// rendered is the manual page as go-md2man makes it for the package.
func rendered(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../tools.mod", "go-md2man")
	cmd.Stdin = strings.NewReader(page(cli.Root(), "0.1.0", "2026-01-31"))
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

func TestEachExampleOfTheManualPageHasALineOfItsOwn(t *testing.T) {
	found := map[string]bool{}
	kept := false // the lines are, as they are in .EX
	for line := range strings.Lines(rendered(t)) {
		switch line = strings.TrimSpace(line); line {
		case ".EX":
			kept = true
		case ".EE":
			kept = false
		default:
			if kept {
				found[strings.NewReplacer(`\-`, "-", `\\`, `\`, `\&`, "").Replace(line)] = true
			}
		}
	}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.HasParent() {
			for line := range strings.Lines(c.Example) {
				require.True(t, found[strings.TrimSpace(line)], "%s\nin %v", line, found)
			}
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(cli.Root())
}

func TestValuesOfOptionsAreWrittenAsTheyAreTyped(t *testing.T) {
	require.Contains(t, page(cli.Root(), "0.1.0", "2026-01-31"), "\n: text or json (default: text)\n")
}
