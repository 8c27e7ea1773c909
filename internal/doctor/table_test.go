package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
)

func TestTableIsWhole(t *testing.T) {
	var names []string
	for _, c := range table() {
		require.NotContains(t, names, c.name)
		require.Regexp(t, `^[a-z][a-z-]{1,15}$`, c.name)
		require.NotEmpty(t, c.about, c.name)
		require.NotNil(t, c.run, c.name)
		for _, other := range c.after {
			require.Contains(t, names, other, "%s: its cause must stand before it, as fold reads it", c.name)
		}
		names = append(names, c.name)
	}
	for line := range strings.Lines(Help()) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 80)
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "    "), " "); ok && strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "     ") {
			require.Equal(t, 1, strings.Count(Help(), "\n    "+name+" "), name)
			names = slices.DeleteFunc(names, func(s string) bool { return s == name })
		}
	}
	require.Empty(t, names, "the help page lacks them")
}

// A node whose driver is not loaded after a boot: the module alone is the problem.
func TestOneCauseIsOneProblem(t *testing.T) {
	n := newNode(t)
	n.remove("proc/driver", "dev")
	n.file("dev/kmsg", kernelLog())
	n.file("proc/modules", "ext4 1 0 - Live 0x0\n")
	r := n.examine()
	require.Equal(t, "0 problem kernel-module: the host has an NVIDIA GPU, but the kernel module nvidia is not loaded | modprobe nvidia; dmesg says why it is not loaded\n", causes(r.Findings))
	var consequences int
	for _, f := range r.Findings {
		require.NotContains(t, f.Fix, "--delete", "the devices come back with the module")
		if f.Cause != "" {
			require.Equal(t, "kernel-module", f.Cause)
			require.Equal(t, "see kernel-module of the host", f.Fix)
			consequences++
		}
	}
	require.Equal(t, 3, consequences, "its three devN entries:\n%s", lines(r.Findings))

	var out strings.Builder
	require.NoError(t, r.Print(&out, false, false, 0))
	require.Contains(t, out.String(), "  follows  from kernel-module of the host: entries-on-host\n")
	require.Contains(t, out.String(), "\n1 problem, 0 warnings, ")
	require.Contains(t, out.String(), "; 3 more follow from these\n")
	require.NotContains(t, out.String(), "dev1")
	out.Reset()
	require.NoError(t, r.Print(&out, true, false, 0))
	require.Contains(t, out.String(), "dev2 names /dev/nvidia-uvm, which the host lacks\n           fix: see kernel-module of the host\n")

	// A card that was taken out is one problem too.
	n.remove("sys/bus/pci/devices/0000:01:00.0")
	require.Equal(t, "0 problem kernel-module: this host has no NVIDIA GPU and NVIDIA's kernel module is not loaded | if the host has one, see whether lspci -d 10de: lists it; for a container that needs no GPU: pve-nvidia-hook disable VMID\n", causes(n.examine().Findings))

	// What has another cause is told for itself.
	n.guest("unprivileged: 1\n", "dev3: /dev/ttyUSB0\n")
	require.Contains(t, causes(n.examine().Findings), "101 problem entries-on-host: the container does not start: dev3 names /dev/ttyUSB0, which the host lacks | pct set 101 --delete dev3\n")
	// And so is what is gone while the module is loaded.
	n = newNode(t)
	n.guest("unprivileged: 1\n", "dev3: /dev/nvidia7,mode=0666\n")
	n.remove("dev/nvidia-uvm")
	require.Contains(t, causes(n.examine().Findings), "101 problem entries-on-host: the container does not start: dev3 names /dev/nvidia7")
}

func TestCauseOfACauseIsTheCause(t *testing.T) {
	all := []Finding{
		{Check: "a", Level: Warning},
		{Check: "b", Level: Unknown, after: []string{"a"}},
		{Check: "g", VMID: 1, Level: Problem, after: []string{"none", "a"}},
		{Check: "c", VMID: 1, Level: Problem, after: []string{"g"}},
		{Check: "c", VMID: 2, Level: Problem, after: []string{"g"}},
		{Check: "d", VMID: 1, Level: OK, after: []string{"a"}},
		{Check: "u", VMID: 3, Level: Unknown},
		{Check: "e", VMID: 3, Level: Problem, after: []string{"u"}},
		{Check: "e", VMID: 3, Level: Unknown, after: []string{"u"}},
		{Check: "f", VMID: 4, Level: Problem, after: []string{"e"}},
	}
	fold(all)
	var got []string
	for _, f := range all {
		got = append(got, f.Cause+" "+f.Fix)
	}
	require.Equal(t, []string{" ", "a see a", "a see a of the host", "a see a of the host", " ", " ", " ", " ", "u see u", " "}, got)
	require.Equal(t, Problem, all[0].Level, "what keeps something from working is a problem")
	require.Equal(t, Unknown, all[6].Level, "what is not known explains no fault")
}

func TestTroublesOfTheHostAreNamed(t *testing.T) {
	notLoaded := func(n node) {
		n.remove("proc/driver")
		n.file("proc/modules", "ext4 1 0 - Live 0x0\n")
		n.file("proc/sys/kernel/osrelease", "6.8.12-5-pve\n")
	}
	const efi = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for name, c := range map[string]struct {
		spoil func(node)
		want  string // all that is told of the host
	}{
		"module of another kernel": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-4-pve/modules.dep", "updates/dkms/nvidia.ko:\n")
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "kernel/fs/ext4/ext4.ko:\n")
				n.file("var/lib/dkms/nvidia/580.142/source", "")
			},
			"0 problem module-build: NVIDIA's kernel module is built for kernel 6.8.12-4-pve only, not for 6.8.12-5-pve, which is running | apt-get install dkms proxmox-headers-6.8.12-5-pve; dkms autoinstall; modprobe nvidia\n",
		},
		"module of a run file of another kernel": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-4-pve/modules.dep", "kernel/drivers/video/nvidia.ko:\n")
			},
			"0 problem module-build: NVIDIA's kernel module is built for kernel 6.8.12-4-pve only, not for 6.8.12-5-pve, which is running | install the driver on the host again, which builds its module for this kernel\n",
		},
		"module built for no kernel": {
			func(n node) { notLoaded(n); n.file("var/lib/dkms/nvidia-current/550.163.01/source", "") },
			"0 problem module-build: DKMS has the source of NVIDIA's kernel module, but it is built for no kernel | apt-get install dkms proxmox-headers-6.8.12-5-pve;",
		},
		"no driver at all": {
			func(n node) { notLoaded(n); n.remove("usr/lib/" + arch(n.T) + "-linux-gnu") },
			"0 problem kernel-module: the host has an NVIDIA GPU, but no NVIDIA driver | install the driver on the host, then: modprobe nvidia\n",
		},
		"module without a signature": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "updates/dkms/nvidia.ko:\n")
				n.file("lib/modules/6.8.12-5-pve/updates/dkms/nvidia.ko", "ELF, with more bytes than a signature's end has")
				n.file(efi, "\x06\x00\x00\x00\x01")
			},
			"0 problem module-signed: Secure Boot is on, so the kernel loads signed modules only, and NVIDIA's has no signature | have the module signed and its key trusted: mokutil --import /var/lib/dkms/mok.pub, then reboot",
		},
		"module that the kernel rejects": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "updates/dkms/nvidia.ko.zst:\n")
				n.file("dev/kmsg", kernelLog("nvidia: Loading of module with unavailable key is rejected"))
			},
			"0 problem module-signed: the kernel refuses a module because of its signature: [5.140901] nvidia: Loading of module with unavailable key is rejected | have the module signed",
		},
		"lockdown": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "updates/dkms/nvidia.ko.zst:\n")
				n.file("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
			},
			"0 unknown module-signed: the kernel is in lockdown mode integrity, so the kernel loads signed modules only; whether it trusts the signature of NVIDIA's is not known | have",
		},
		"nouveau": {
			func(n node) {
				notLoaded(n)
				n.file("proc/modules", "nouveau 1 0 - Live 0x0\n")
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "updates/dkms/nvidia.ko.zst:\n")
				n.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../../bus/pci/drivers/nouveau")
			},
			"0 problem nouveau: nouveau is loaded and holds GPU 0000:01:00.0: NVIDIA's driver cannot use it | echo blacklist nouveau > /etc/modprobe.d/blacklist-nouveau.conf; update-initramfs -u; reboot\n",
		},
		"vGPU host driver": {
			func(n node) { n.file("sys/module/nvidia_vgpu_vfio/refcnt", "0\n") },
			"0 problem vgpu: the host has the vGPU host driver (vgpu-kvm): it is for virtual machines, and containers cannot use it | install the ordinary driver",
		},
		"vGPU run file": {
			func(n node) { n.file("cache/NVIDIA-Linux-x86_64-550.90.05-vgpu-kvm.run", "x") },
			"vgpu-kvm.run is the vGPU host driver: it is for virtual machines and has no libraries for containers | rm ",
		},
		"two drivers": {
			func(n node) { n.file("usr/lib/"+arch(n.T)+"-linux-gnu/nvidia/current/libnvidia-ml.so.550.163.01", "") },
			"0 warning host-driver: the host has libraries of 2 driver versions: /usr/lib/" + arch(t) + "-linux-gnu/nvidia/current/libnvidia-ml.so.550.163.01, /usr/lib/" + arch(t) + "-linux-gnu/libnvidia-ml.so.580.142; a program may load the wrong one | remove",
		},
		"GPU off the bus": {
			func(n node) {
				n.file("dev/kmsg", kernelLog("NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=python3, MMU Fault", "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."))
			},
			"0 problem kernel-log: a GPU did not answer since the host was booted: [5.140902] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus. | reboot the host;",
		},
		"GSP does not answer": {
			func(n node) {
				n.file("dev/kmsg", kernelLog("NVRM: Xid (PCI:0000:01:00): 119, pid=7, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU0 GSP!"))
			},
			"0 problem kernel-log: a GPU did not answer",
		},
		"GPU that cannot be initialised": {
			func(n node) {
				n.file("dev/kmsg", kernelLog("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:2028)"))
			},
			"0 problem kernel-log: a GPU did not answer",
		},
		"GPU that the open module does not support": {
			func(n node) {
				n.file("dev/kmsg", kernelLog("NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1b38)\nNVRM: installed in this system is not supported by open\nNVRM: nvidia.ko because it does not include the required GPU\nNVRM: System Processor (GSP)."))
			},
			"0 problem kernel-log: the open kernel module does not support a GPU of this host: [5.140901] NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1b38) NVRM: installed in this system is not supported by open NVRM: nvidia.ko because it does not include the required GPU NVRM: System Processor (GSP). | install the driver with its proprietary kernel module",
		},
		"error of a GPU's memory": {
			func(n node) {
				n.file("dev/kmsg", kernelLog("NVRM: Xid (PCI:0000:01:00): 48, pid=7, An uncorrectable double bit error", "NVRM: Xid (PCI:0000:01:00): 63, Row remap"))
			},
			"0 warning kernel-log: the kernel log has 2 errors of a GPU, the last one: [5.140902] NVRM: Xid (PCI:0000:01:00): 63, Row remap | look the Xid number up",
		},
		"kernel log that cannot be read": {
			func(n node) { n.remove("dev/kmsg") },
			"0 unknown kernel-log: the kernel log cannot be read: open ",
		},
		"branch ended before this driver": {
			func(n node) {
				n.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.48.01  Release Build\n")
				n.file("usr/lib/"+arch(n.T)+"-linux-gnu/libnvidia-ml.so.590.48.01", "")
				n.remove("usr/lib/" + arch(n.T) + "-linux-gnu/libnvidia-ml.so.580.142")
				n.file("sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n")
				n.file("sys/bus/pci/devices/0000:02:00.0/class", "0x030200\n")
				n.file("sys/bus/pci/devices/0000:02:00.0/device", "0x1b38\n")
			},
			"0 problem gpu-branch: driver 590.48.01 does not support GPU 0000:02:00.0 (Pascal): the newest branch for it is 580 | install a driver of branch 580 on the host\n",
		},
		"branch ends with the next boot": {
			func(n node) {
				n.file("usr/lib/"+arch(n.T)+"-linux-gnu/libnvidia-ml.so.590.48.01", "")
				n.remove("usr/lib/" + arch(n.T) + "-linux-gnu/libnvidia-ml.so.580.142")
				n.file("sys/bus/pci/devices/0000:01:00.0/device", "0x1b38\n")
			},
			"0 warning gpu-branch: driver 590.48.01, which is installed but not loaded yet, does not support NVIDIA A10 (0000:01:00.0) (Pascal): the newest branch for it is 580 | install a driver of branch 580 on the host before the next reboot\n",
		},
		"card that the driver itself calls legacy": {
			func(n node) {
				notLoaded(n)
				n.file("lib/modules/6.8.12-5-pve/modules.dep", "updates/dkms/nvidia.ko.zst:\n")
				n.file("dev/kmsg", kernelLog("NVRM: The NVIDIA GeForce GTX 580 GPU installed in this system is\nNVRM:  supported through the NVIDIA 390.xx Legacy drivers. Please\nNVRM:  visit http://www.nvidia.com/object/unix.html for more\nNVRM:  information.  The 535.261.03 NVIDIA driver will ignore\nNVRM:  this GPU.  Continuing probe..."))
			},
			"0 problem gpu-branch: the driver does not support a GPU of this host: [5.140901] NVRM: The NVIDIA GeForce GTX 580 GPU installed in this system is NVRM:  supported through the NVIDIA 390.xx Legacy drivers.",
		},
		"card that the driver does not know": {
			func(n node) {
				n.file("sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n")
				n.file("sys/bus/pci/devices/0000:02:00.0/class", "0x030200\n")
				n.file("dev/kmsg", kernelLog("NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c05)\nNVRM: installed in this system is not supported by the\nNVRM: NVIDIA 535.261.03 driver release.\nNVRM: Please see 'Appendix A - Supported NVIDIA GPU Products'"))
			},
			"0 problem gpu-branch: the driver does not support a GPU of this host: [5.140901] NVRM: The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c05) NVRM: installed in this system is not supported by the NVRM: NVIDIA 535.261.03 driver release.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.spoil(n)
			said := causes(n.examine().Findings)
			require.Contains(t, said, c.want)
			if strings.Contains(c.want, " problem ") {
				require.Equal(t, 1, strings.Count(said, " problem "), "what follows from it is not told again:\n%s", said)
			}
		})
	}
}

func TestWhatIsNoTroubleOfTheHost(t *testing.T) {
	n := newNode(t)
	n.file("proc/sys/kernel/osrelease", "6.8.12-5-pve\n") // the module is loaded, whatever modules.dep says
	n.file("lib/modules/6.8.12-4-pve/modules.dep", "updates/dkms/nvidia.ko:\n")
	n.file("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
	n.file("dev/kmsg", kernelLog("NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=python3, MMU Fault", "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.142",
		"NVRM: installed in this system is not supported by the\nNVRM: NVIDIA 470.256.02 driver release.")) // the driver before
	n.file("sys/bus/pci/devices/0000:01:00.0/device", "0x1b38\n")
	// A second card is for a virtual machine.
	n.file("sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n")
	n.file("sys/bus/pci/devices/0000:02:00.0/class", "0x030200\n")
	n.file("sys/bus/pci/devices/0000:02:00.0/device", "0x102d\n")
	n.link("sys/bus/pci/devices/0000:02:00.0/driver", "../../../bus/pci/drivers/vfio-pci")
	r := n.examine()
	require.Empty(t, lines(r.Findings))
	what := map[string]string{}
	for _, f := range r.Findings {
		what[f.Check] = f.What
	}
	require.Equal(t, "the newest driver branch for NVIDIA A10 (0000:01:00.0) (Pascal) is 580", what["gpu-branch"])
	require.Contains(t, what["kernel-log"], "the kernel log has no errors of a GPU")
}

// Proxmox names this program when a script that it runs fails a start.
func TestWhoseExitStatusItIsIsSaid(t *testing.T) {
	h, g := well(t)
	g.chain = script{volume: "local:snippets/backup.sh", file: "/var/lib/vz/snippets/backup.sh", there: true, exec: true}
	found := only(h, g, "hookscript")
	require.Equal(t, OK, found[0].Level)
	require.Contains(t, found[0].What, "after it runs the chained script local:snippets/backup.sh, whose exit status is that of the phase")
}

func TestHeadersHaveTheNameOfTheKernelsMaker(t *testing.T) {
	for kernel, want := range map[string]string{
		"6.8.12-4-pve": "proxmox-headers-6.8.12-4-pve", "6.2.16-20-pve": "proxmox-headers-6.2.16-20-pve",
		"6.1.0-9-amd64": "linux-headers-6.1.0-9-amd64",
	} {
		require.Equal(t, want, headers(kernel))
	}
}

func TestPersistenceModeIsAskedOfTheHost(t *testing.T) {
	dir := t.TempDir()
	program := func(text string) string {
		file := filepath.Join(dir, "nvidia-smi")
		require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
		return file
	}
	said := func(answer string) string {
		return lines(only(hostFacts{persistence: answer}, guestFacts{}, "persistence"))
	}
	ask := `[ "$*" = "--query-gpu=persistence_mode --format=csv,noheader" ] || exit 6` + "\n"
	require.Empty(t, said(askPersistence(t.Context(), program(ask+"echo Enabled; echo Enabled"))))
	require.Contains(t, said(askPersistence(t.Context(), program(ask+"echo Enabled; echo Disabled"))), "warning persistence: persistence mode is off: a GPU that no program uses is shut down")
	require.Empty(t, said(askPersistence(t.Context(), program("echo NVIDIA-SMI has failed; exit 9"))))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	require.Empty(t, said(askPersistence(ctx, program("exec sleep 30"))))
	require.Less(t, time.Since(begin), 10*time.Second)

	h, _ := well(t)
	h.Host = host.Host{Root: dir}
	t.Setenv("PATH", dir)
	program("echo Disabled")
	require.Empty(t, lookPersistence(t.Context(), h), "not for the facts of another node")
}

// Nodes may share a cache through FUSE, and each then has locks of its own.
func TestCacheOnFUSEMayNotLock(t *testing.T) {
	bindfs, err := exec.LookPath("bindfs")
	if err != nil {
		t.Skip("needs bindfs")
	}
	n := newNode(t)
	n.file("real/x", "")
	require.NoError(t, os.Mkdir(n.path("cache"), 0o755))
	if out, err := exec.Command(bindfs, n.path("real"), n.path("cache")).CombinedOutput(); err != nil {
		t.Skipf("FUSE cannot be mounted here: %s", out)
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", n.path("cache")).Run()) })
	require.Contains(t, lines(n.examine().Findings), "0 warning cache: the cache folder "+n.path("cache")+" is on FUSE (fuse")
	require.Contains(t, lines(n.examine().Findings), "its locks hold on this node, but they may not exclude another node | for a cache that nodes share, set cache.dir to")
}

func TestTextIsBrokenBetweenWords(t *testing.T) {
	for name, c := range map[string]struct {
		wrap func(lead, text string, width int) string
		text string
		want string
	}{
		"fits":            {wrap, "one two", "  x  one two"},
		"words":           {wrap, "one two three four five", "  x  one two three\n     four five"},
		"long word":       {wrap, "/a/very/long/path/to/a/file is", "  x  /a/very/long/path/to/a/file\n     is"},
		"wide letters":    {wrap, "ä ö ü ä ö ü ä ö ü", "  x  ä ö ü ä ö ü ä ö\n     ü"},
		"commands whole":  {wrapFix, "modprobe a; do the b c", "  x  modprobe a;\n     do the b c"},
		"long command":    {wrapFix, "pct set 101 --dev0 /dev/x; y", "  x  pct set 101\n     --dev0 /dev/x; y"},
		"quotes":          {wrapFix, "sed -i 's/a b; c d/e/' f, then NVIDIA's x", "  x  sed -i\n     's/a b; c d/e/'\n     f,\n     then NVIDIA's x"},
		"quote not ended": {wrapFix, "echo 'a b c d e f g h i", "  x  echo\n     'a b c d e f g h i"},
		"empty":           {wrapFix, "", "  x  "},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, c.wrap("  x  ", c.text, 21))
			require.NotContains(t, c.wrap("  x  ", c.text, 0), "\n")
		})
	}
}
