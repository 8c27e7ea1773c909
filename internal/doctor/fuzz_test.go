package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/pve"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

// pasted are the commands that a configuration's text gets into.
var pasted = regexp.MustCompile(`^(chmod|pct set|sed) `)

// harmless are those of them that mean nothing else to a shell.
var harmless = regexp.MustCompile(`^(chmod 755 /[A-Za-z0-9/._,=:+@-]+|pct set 101 --(delete dev[0-9]+|dev[0-9]+ [A-Za-z0-9/._,=:+@-]+)|sed -i 's/[][A-Za-z0-9^*:=. ]+/[a-z0-9:. ]+:/' /etc/pve/lxc/101\.conf)$`)

// once reports whether no key stands twice in the value of a devN entry, which
// Proxmox refuses.
func once(value string) bool {
	keys := map[string]bool{}
	items := strings.Split(value, ",")
	for _, item := range items {
		key, _, named := strings.Cut(item, "=")
		if !named {
			key = "path"
		}
		keys[key] = true
	}
	return len(keys) == len(items)
}

// Whatever stands in a container's configuration: what is advised can be pasted
// and does what is said.
func FuzzConfigurationOfAContainer(f *testing.F) {
	const devices = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n243 hidraw\n\nBlock devices:\n240 nvme\n"
	mounts := ""
	for _, dev := range []string{"nvidiactl", "nvidia0", "nvidia-uvm"} {
		mounts += fmt.Sprintf("lxc.mount.entry: /dev/%s dev/%s none bind,optional,create=file\n", dev, dev)
	}
	for _, conf := range []string{
		goodConf, mounts,
		mounts + "lxc.cgroup2.devices.allow: c 195:* rwm\nlxc.cgroup2.devices.allow: c 243:* rwm\n",
		mounts + "lxc.cgroup2.devices.allow = c  243:* rwm\nlxc.cgroup.devices.allow=a\n[old]\ndev0: /dev/nvidia0\n",
		"dev0: /dev/nvidia0;reboot\ndev1: mode=0660,path=/dev/nvidia1,x=$(reboot)\ndev2: /dev/nvidia2'\ndev3: mode=0666,/dev/nvidia3\n",
		"dev1: \x1b[2J\ndev2: /dev/nvidia\u202e,mode=0\ndev3: ,,,=\ndev4: /dev/nvidia0,uid=1000\n[pve:pending]\ndelete: dev1\n",
		"hookscript: local:snippets/pve nvidia;hook\nlxc.mount.entry: /dev/nvidia-caps/../nvidia0\tdev/nvidia-caps none bind,create=dir\nlxc.mount.entry: /dev/\nlxc.cgroup2.devices.allow:\n",
	} {
		f.Add(conf, devices, true)
		f.Add(conf, "511 nvidia-uvm\n510 nvidia-uvm\n-1 x\n4096 y\n 7  z", false)
	}
	settings, err := (&config.Config{}).For(101)
	require.NoError(f, err)
	storages, err := pve.ParseStorages(strings.NewReader(""))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text, devices string, there bool) {
		c, err := pve.ParseConf(strings.NewReader(text), false)
		if err != nil {
			return
		}
		h := hostFacts{module: "580.142", kernel: host.Facts{GPUs: []uint32{0}, Majors: host.ParseMajors(devices)}, local: "pve1", present: []host.Node{
			{Path: "/dev/nvidiactl", Major: 195, Minor: 255, IsChar: true}, {Path: "/dev/nvidia0", Major: 195, IsChar: true}, {Path: "/dev/nvidia-uvm", Major: 511, IsChar: true}}}
		for major := range h.kernel.Majors {
			require.Less(t, major, uint32(4096))
		}
		g := guestFacts{vmid: 101, settings: settings, guest: &pve.Guest{VMID: 101, Node: "pve1", Conf: c}, live: c.Section, next: c.Next(), hostHas: map[string]bool{}}
		list := entries(g.next)
		for _, e := range list {
			require.True(t, e.brings(e.target))
			require.LessOrEqual(t, e.mode, uint32(0o7777))
			if there {
				g.hostHas[e.source] = e.source != "/dev/nvidia7"
			}
			// Proxmox takes the items in any order.
			items := strings.Split(e.value, ",")
			if e.dev() && once(e.value) {
				slices.Reverse(items)
				turned := devEntry(e.key, strings.Join(items, ","))
				turned.value = e.value
				require.Equal(t, e, turned, "%s", e.value)
			}
		}
		if file, err := storages.Path(g.next.Hookscript); err == nil {
			g.hook = script{volume: g.next.Hookscript, file: file, there: there}
		}
		for _, found := range only(h, g, "hookscript", "entries-on-host", "entries", "entry-mode", "device-rules") {
			fix := say.Clean(found.Fix, 1000)
			if pasted.MatchString(fix) {
				require.True(t, harmless.MatchString(fix), "%s", fix)
			}
			if command, ok := strings.CutPrefix(fix, "pct set 101 --dev"); ok {
				number, value, _ := strings.Cut(command, " ")
				n, err := strconv.Atoi(number)
				require.NoError(t, err)
				old, now := devEntry("", g.next.Dev[n]), devEntry("", value)
				require.Equal(t, old.source, now.source)
				require.True(t, now.mode == 0o666 && (once(value) || !once(old.value)), "%q becomes %q", old.value, value)
			}
			if command, ok := strings.CutPrefix(fix, "sed -i 's/"); ok && !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) {
				// The line is there, as sed and as this see it.
				old, _, _ := strings.Cut(command, "/")
				require.Regexp(t, regexp.MustCompile("(?m)"+old), text)
			}
		}
	})
}

// A rule is understood as the kernel does, however it is written, and the
// kernel's table of majors too.
func FuzzDeviceRules(f *testing.F) {
	f.Add(uint16(195), uint16(0), uint16(195), uint16(255), false, true, "rwm", "1 mem\n")
	f.Add(uint16(511), uint16(1), uint16(511), uint16(1), false, false, "mr", "Block devices:\n511 x\n")
	f.Add(uint16(0), uint16(0), uint16(7), uint16(7), true, true, "rw", "")
	f.Fuzz(func(t *testing.T, major, minor, askMajor, askMinor uint16, anyMajor, anyMinor bool, access, devices string) {
		for _, r := range access {
			if !strings.ContainsRune("rwm", r) {
				return
			}
		}
		numbers := func(n uint16, any bool) string {
			if any {
				return "*"
			}
			return strconv.Itoa(int(n))
		}
		pair := numbers(major, anyMajor) + ":" + numbers(minor, anyMinor)
		want := (anyMajor || major == askMajor) && (anyMinor || minor == askMinor) && strings.Contains(access, "r") && strings.Contains(access, "w")
		for _, form := range []string{"lxc.cgroup2.devices.allow: %s %s %s\n", "lxc.cgroup2.devices.allow=%s %s  %s \n", "lxc.cgroup.devices.allow = %s %s %s"} {
			for _, kind := range []string{"c", "b"} {
				c, err := pve.ParseConf(strings.NewReader(fmt.Sprintf(form, kind, pair, access)), false)
				require.NoError(t, err)
				list := rules(c.Section)
				require.Len(t, list, 1)
				require.Equal(t, want && kind == "c", list[0].allows(uint32(askMajor), uint32(askMinor)), "%+v", list[0])
			}
		}
		major %= 512
		if devices != "" && !strings.HasSuffix(devices, "\n") {
			devices += "\n"
		}
		before := host.ParseMajors(devices)
		after := host.ParseMajors(fmt.Sprintf("%s%3d nvidia-uvm\n\nBlock devices:\n%3d sd\n", devices, major, major))
		if !strings.Contains(devices, "Block devices:") {
			before[uint32(major)] = append(before[uint32(major)], "nvidia-uvm")
			got, ok := host.Facts{Majors: after}.Major("nvidia-uvm")
			require.True(t, ok && slices.Contains(after[got], "nvidia-uvm"))
			require.Equal(t, before, after)
		} else if !strings.HasPrefix(devices, "Block devices:") {
			require.LessOrEqual(t, len(before), len(after))
		}
	})
}
