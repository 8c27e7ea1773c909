package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// What the commands themselves do not say.
//
//go:embed description.md
var description string

//go:embed rest.md
var rest string

// page is the manual page of the program: all commands on one page, which is
// where a reader searches.
func page(root *cobra.Command, version, date string) string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n\n", args...) }
	add("%% PVE-NVIDIA-HOOK 8 %q %q %q", date, "pve-nvidia-hook "+version, "System Administration")
	add("# NAME\n\npve-nvidia-hook - NVIDIA driver user space for LXC containers of Proxmox VE")
	add("# SYNOPSIS\n\n**pve-nvidia-hook** *VMID* *PHASE*\n\n**pve-nvidia-hook** *COMMAND* [*ARGUMENT*...] [*OPTION*...]")
	add("# DESCRIPTION\n\n%s", strings.TrimSpace(description))
	add("# COMMANDS")
	for _, c := range root.Commands() {
		command(add, c)
	}
	add("# OPTIONS\n\nOf every command:")
	flags(add, root.PersistentFlags())
	add("%s", strings.TrimSpace(rest))
	return strings.TrimSpace(b.String()) + "\n"
}

func command(add func(string, ...any), c *cobra.Command) {
	if !c.IsAvailableCommand() || c.Name() == "completion" || c.Name() == "help" {
		return
	}
	if c.Runnable() {
		add("## %s", text(strings.TrimPrefix(c.UseLine(), "pve-nvidia-hook ")))
		said := strings.TrimSpace(c.Long)
		if said == "" {
			said = sentence(c.Short)
		}
		add("%s", text(said))
		// Before the options: after a definition go-md2man takes a block for a part
		// of it, and fills its lines into one.
		if c.Example != "" {
			add("```\n%s\n```", strings.Trim(c.Example, "\n"))
		}
		flags(add, c.NonInheritedFlags())
	}
	for _, sub := range c.Commands() {
		command(add, sub)
	}
}

func flags(add func(string, ...any), set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "**--" + f.Name + "**"
		if f.Shorthand != "" {
			name = "**-" + f.Shorthand + "**, " + name
		}
		if value != "" {
			name += " *" + text(value) + "*"
		}
		def := ""
		switch f.DefValue {
		case "", "0", "false", "[]", "0s":
		default:
			def = " (default: " + text(f.DefValue) + ")"
		}
		// No sentence of it: a capital would be wrong where the text begins with a value.
		add("%s\n: %s%s", name, text(usage), def)
	})
}

// sentence makes one of a help text, which has neither capital nor full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// text keeps Markdown from reading a help text as anything but text.
func text(s string) string {
	return strings.NewReplacer("<", `\<`, ">", `\>`, "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`).Replace(s)
}
