// Command mkdocs writes, from the program's own commands, what the package ships
// besides the program: its manual page as Markdown for go-md2man, and the
// completions of three shells. So none of them can tell another story than the
// program's own help.
//
//	go run ./packaging/mkdocs -version 0.1.0 -date 2026-01-31 DIR
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/cli"
)

func main() {
	version := flag.String("version", "dev", "version that the manual page names")
	date := flag.String("date", "", "date that the manual page names")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: mkdocs [-version V] [-date YYYY-MM-DD] DIR")
		os.Exit(2)
	}
	if err := write(flag.Arg(0), *version, *date); err != nil {
		fmt.Fprintln(os.Stderr, "mkdocs:", err)
		os.Exit(1)
	}
}

func write(dir, version, date string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := cli.Root()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, step := range []func() error{
		func() error {
			return os.WriteFile(in("pve-nvidia-hook.8.md"), []byte(page(root, version, date)), 0o644)
		},
		func() error { return root.GenBashCompletionFileV2(in("pve-nvidia-hook.bash"), true) },
		func() error { return root.GenZshCompletionFile(in("_pve-nvidia-hook")) },
		func() error { return root.GenFishCompletionFile(in("pve-nvidia-hook.fish"), true) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("write documents to %s: %w", dir, err)
		}
	}
	return nil
}
