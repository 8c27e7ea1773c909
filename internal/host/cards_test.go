package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// pci puts a device onto the bus of a fixture.
func pci(t *testing.T, root, address, class, vendor, device, driver string) {
	t.Helper()
	dir := "sys/bus/pci/devices/" + address
	put(t, root, dir+"/class", class+"\n")
	put(t, root, dir+"/vendor", vendor+"\n")
	put(t, root, dir+"/device", device+"\n")
	if driver != "" {
		require.NoError(t, os.Symlink("../../../../bus/pci/drivers/"+driver, filepath.Join(root, dir, "driver")))
	}
}

func TestCardsAreThoseOfNVIDIAWithTheirDrivers(t *testing.T) {
	root := t.TempDir()
	pci(t, root, "0000:41:00.0", "0x030000", "0x10de", "0x1b38", "vfio-pci")
	pci(t, root, "0000:01:00.0", "0x030200", "0x10de", "0x2236", "nvidia")
	pci(t, root, "0000:01:00.1", "0x040300", "0x10de", "0x22ba", "snd_hda_intel") // its sound
	pci(t, root, "0000:02:00.0", "0x030000", "0x1a03", "0x2000", "ast")           // the board's own
	pci(t, root, "0000:81:00.0", "0x030000", "0x10de", "odd", "nouveau")
	pci(t, root, "0000:82:00.0", "0x030000", "0x10de", "0x102d", "")
	put(t, root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA A10\nIRQ:   \t\t 98\nDevice Minor: \t 0\n")
	facts := ReadFacts(root)
	require.NoError(t, facts.PCIError)
	require.Equal(t, []Card{
		{"0000:01:00.0", 0x2236, "nvidia", "NVIDIA A10"},
		{"0000:41:00.0", 0x1b38, "vfio-pci", ""},
		{"0000:81:00.0", 0, "nouveau", ""},
		{"0000:82:00.0", 0x102d, "", ""},
	}, facts.Cards)
	require.Equal(t, 3, facts.PCI)
	require.Equal(t, 1, facts.VFIO)
	require.Equal(t, "NVIDIA A10 (0000:01:00.0)", facts.Cards[0].String())
	require.Equal(t, "GPU 0000:41:00.0", facts.Cards[1].String())
}

func TestLastBranchOfEndedArchitectures(t *testing.T) {
	for id, want := range map[uint16]struct {
		name   string
		branch int
	}{
		0x102d: {"Kepler", 470},  // Tesla K80
		0x1187: {"Kepler", 470},  // GeForce GTX 760
		0x128b: {"Kepler", 470},  // GeForce GT 710
		0x13f2: {"Maxwell", 580}, // Tesla M60
		0x17c2: {"Maxwell", 580}, // GeForce GTX TITAN X
		0x15f8: {"Pascal", 580},  // Tesla P100
		0x1b38: {"Pascal", 580},  // Tesla P40
		0x1d01: {"Pascal", 580},  // GeForce GT 1030
		0x1db4: {"Volta", 580},   // Tesla V100
		0x1e04: {},               // GeForce RTX 2080 Ti, Turing
		0x2182: {},               // GeForce GTX 1660 Ti, Turing
		0x2236: {},               // A10, Ampere
		0x1040: {},               // GeForce GT 520, Fermi
		0x1200: {},               // GeForce GTX 560 Ti, Fermi
		0x174d: {},               // GeForce MX130, Maxwell among others: not known
		0:      {},
	} {
		name, branch := Card{ID: id}.LastBranch()
		require.Equal(t, want.name, name, "%04x", id)
		require.Equal(t, want.branch, branch, "%04x", id)
	}
}
