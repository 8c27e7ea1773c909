package debtest

import (
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// withCard gives the node what a loaded driver and a card show in /proc, and the
// driver's run file in /root and in the cache, since a node of the tests has no
// network. It returns the run file's name.
func (n *node) withCard() string {
	n.t.Helper()
	n.run("mount -t tmpfs driver /proc/driver")
	for name, text := range map[string]string{
		"driver/nvidia/version":                       "NVRM version: NVIDIA UNIX x86_64 Kernel Module  " + driver + "  Tue Apr  8 12:41:17 UTC 2025\n",
		"driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA A10\nGPU UUID: \t GPU-5c4f7f3e-8a43-4b1c-9d0e-2f6b7a1c0d42\nDevice Minor: \t 0\n",
		"devices": "Character devices:\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n",
	} {
		n.give("/root/proc/"+name, []byte(text), 0o644)
	}
	n.run("cp -r /root/proc/driver/nvidia /proc/driver/ && mount --bind /root/proc/devices /proc/devices")
	run := sample(n.t)
	name := "/root/" + filepath.Base(run)
	n.give(name, read(n.t, run), 0o644)
	n.run("mkdir /var/cache/pve-nvidia-hook && mount -t tmpfs -o mode=0755 cache /var/cache/pve-nvidia-hook && cp " + name + " /var/cache/pve-nvidia-hook/")
	return name
}

var (
	inlineCode = regexp.MustCompile("`([^`]+)`")
	remark     = regexp.MustCompile(` +# .*$`)
	command    = regexp.MustCompile(`^(pve-nvidia-hook|pct|apt|systemctl|journalctl|man|make|git|docker) [a-z-]`)
)

// commandsOf lists the commands of a page in their order: those of its blocks and
// those in its sentences. Those of the block that removes all come last.
func commandsOf(page string) []string {
	var commands, removal []string
	block, toml := false, false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			block, toml = !block, line == "```toml"
			continue
		}
		found := []string{remark.ReplaceAllString(line, "")}
		if !block {
			found = nil
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				if command.MatchString(m[1]) {
					found = append(found, m[1])
				}
			}
		}
		switch {
		case block && toml:
		case block && (strings.Contains(line, "disable") || len(removal) > 0):
			removal = append(removal, found...)
		default:
			commands = append(commands, found...)
		}
	}
	return append(commands, removal...)
}

// An owner who types the README gets a driver that works, and at its end the node and
// the container as they were.
func TestEveryCommandOfTheReadmeWorksOnANode(t *testing.T) {
	n := startNode(t, "trixie")
	n.run("mkdir -p /etc/pve/nodes/pve1/lxc && ln -sn nodes/pve1 /etc/pve/local && ln -sn nodes/pve1/lxc /etc/pve/lxc && mkdir -p /var/lib/vz/snippets")
	clean := n.files()
	runFile := n.withCard()
	n.give("/root/"+filepath.Base(deb(newer)), read(t, deb(newer)), 0o644)
	n.guest("101", "arch: amd64\nhostname: ollama\nrootfs: local:101/vm-101-disk-0.raw,size=8G\n")
	n.run("pct start 101")
	conf := n.run("cat /etc/pve/lxc/101.conf")

	// What cannot be run here as it stands.
	elsewhere := map[string]string{
		"make picture": "", "make demo": "", "make test": "", // of the repository
		"git clone https://github.com/thinkheads-ai/pve-nvidia-hook && cd pve-nvidia-hook": "", "make deb": "", // TestMain
		"docker run --rm --gpus all IMAGE nvidia-smi": "",                                 // there is no GPU
		"man pve-nvidia-hook":                         "", "man pve-nvidia-hook.toml": "", // there is no man
		"pve-nvidia-hook setup":               "pve-nvidia-hook setup --dry-run", // it asks a person
		"pve-nvidia-hook cache add FILE":      "pve-nvidia-hook cache add " + runFile,
		"pve-nvidia-hook enable 101 --docker": "pve-nvidia-hook enable 101 --docker --dry-run", // no network
		"apt remove pve-nvidia-hook":          "apt remove -y pve-nvidia-hook",
		"systemctl --failed":                  "test -z \"$(systemctl --failed --no-legend 'pve-nvidia-hook*')\"",
		"apt install":                         "",
	}
	commands := commandsOf(string(read(t, filepath.Join(source, "README.md"))))
	require.Greater(t, len(commands), 20)
	for line, instead := range elsewhere {
		require.Contains(t, commands, line, "it is not in the README any more")
		if instead == "" {
			commands = slices.DeleteFunc(commands, func(c string) bool { return c == line })
		}
	}
	for _, line := range commands {
		if instead, ok := elsewhere[line]; ok {
			line = instead
		}
		said := n.run("cd /root && " + strings.ReplaceAll(line, "_amd64", "_"+runtime.GOARCH) + " 2>&1")
		switch line {
		case "pct exec 101 nvidia-smi":
			require.Contains(t, said, "Driver Version: "+driver)
		case "pve-nvidia-hook doctor 101":
			require.Contains(t, said, "0 problems, ")
		case "journalctl -t pve-nvidia-hook VMID=101":
			require.Contains(t, said, "driver "+driver+" is installed and nvidia-smi works")
		case "apt remove -y pve-nvidia-hook":
			require.NotContains(t, said, "guest", "its devices go before the next start")
		}
	}

	_, err := n.try("pct exec 101 nvidia-smi")
	require.Error(t, err)
	n.run("pct reboot 101") // a running container keeps its devices until then
	require.Equal(t, conf, n.run("cat /etc/pve/lxc/101.conf"))
	n.run("umount /var/cache/pve-nvidia-hook && apt purge -y pve-nvidia-hook 2>&1")
	left := slices.DeleteFunc(strings.Fields(n.files()), func(file string) bool {
		return strings.Contains("\n"+clean, "\n"+file+"\n")
	})
	require.Empty(t, left, "what a purge leaves")
}
