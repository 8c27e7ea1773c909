package host

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestModulesAreFoundByTheKernelThatTheyAreFor(t *testing.T) {
	root := t.TempDir()
	const others = "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko\nupdates/dkms/nvidia-uvm.ko.xz: updates/dkms/nvidia.ko.xz\nupdates/dkms/nvidia-current-drm.ko:\nkernel/drivers/video/fbdev/nvidia/nvidiafb.ko:\n"
	put(t, root, "lib/modules/6.8.12-4-pve/modules.dep", others+"updates/dkms/nvidia.ko.xz: kernel/x.ko\n")
	put(t, root, "lib/modules/6.1.0-9-amd64/modules.dep", others+"updates/dkms/nvidia-current.ko:\n")
	put(t, root, "lib/modules/6.1.0-8-amd64/modules.dep", others+"updates/dkms/nvidia-tesla-470.ko.zst:\n")
	put(t, root, "lib/modules/6.1.0-7-amd64/modules.dep", others+"updates/dkms/nvidia-current-open-uvm.ko:\nupdates/dkms/nvidia-current-open.ko:\n")
	put(t, root, "lib/modules/6.8.12-5-pve/modules.dep", others)
	put(t, root, "lib/modules/6.8.12-6-pve/readme", "")
	put(t, root, "proc/sys/kernel/osrelease", "6.8.12-5-pve\n")
	h := Host{Root: root}
	dir := filepath.Join(root, "lib/modules")
	require.Equal(t, map[string]string{
		"6.8.12-4-pve":  dir + "/6.8.12-4-pve/updates/dkms/nvidia.ko.xz",
		"6.1.0-9-amd64": dir + "/6.1.0-9-amd64/updates/dkms/nvidia-current.ko",
		"6.1.0-7-amd64": dir + "/6.1.0-7-amd64/updates/dkms/nvidia-current-open.ko",
		"6.1.0-8-amd64": dir + "/6.1.0-8-amd64/updates/dkms/nvidia-tesla-470.ko.zst",
	}, h.BuiltModules())
	require.Equal(t, "6.8.12-5-pve", h.Kernel())
	require.Empty(t, Host{Root: t.TempDir()}.Kernel())
}

func TestSignatureOfAModule(t *testing.T) {
	root := t.TempDir()
	put(t, root, "signed.ko", "ELF...~Module signature appended~\n")
	put(t, root, "unsigned.ko", "ELF........................................")
	put(t, root, "short.ko", "ELF")
	put(t, root, "packed.ko.xz", "ELF...~Module signature appended~\n")
	for name, want := range map[string][2]bool{
		"signed.ko": {true, true}, "unsigned.ko": {false, true}, "short.ko": {}, "packed.ko.xz": {}, "gone.ko": {}, "": {},
	} {
		signed, known := Signed(filepath.Join(root, name))
		require.Equal(t, want, [2]bool{signed, known}, name)
	}
}

func TestWhyTheKernelLoadsSignedModulesOnly(t *testing.T) {
	const boot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for want, files := range map[string]map[string]string{
		"":                  {boot: "\x06\x00\x00\x00\x00", "sys/kernel/security/lockdown": "[none] integrity confidentiality\n", "sys/module/module/parameters/sig_enforce": "N\n"},
		"Secure Boot is on": {boot: "\x06\x00\x00\x00\x01"},
		"the kernel is in lockdown mode integrity": {"sys/kernel/security/lockdown": "none [integrity] confidentiality\n"},
		"module.sig_enforce is set":                {"sys/module/module/parameters/sig_enforce": "Y\n"},
	} {
		root := t.TempDir()
		for name, text := range files {
			put(t, root, name, text)
		}
		require.Equal(t, want, Host{Root: root}.SignedOnly())
	}
	require.Empty(t, Host{Root: t.TempDir()}.SignedOnly())
}
