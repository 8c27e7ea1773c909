package cli

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

func TestCacheCommandsSayInAWordThatTheyWereInterrupted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the cache takes only files that belong to root")
	}
	dir := t.TempDir()
	file, err := fakerun.Write(dir, fakerun.Spec{Version: "580.142", Arch: "x86_64", NoDecompressor: true})
	require.NoError(t, err)
	config := filepath.Join(dir, "config.toml")
	require.NoError(t, os.WriteFile(config, []byte(settings(dir, "https://127.0.0.1:9/{file}")), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, words := range map[string][]string{
		"add " + file:   {"cache", "add", file},
		"fetch NVIDIA-": {"cache", "fetch", "570.1"},
		"doctor":        {"doctor"},
	} {
		root := Root()
		root.SetArgs(append(words, "--config", config))
		require.Regexp(t, "^"+what+`[^ ]*: interrupted$`, root.ExecuteContext(ctx))
	}
}
