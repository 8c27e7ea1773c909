package host

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Card is a GPU of NVIDIA as the PCI bus lists it, whichever driver it has; GPU is
// one that the NVIDIA driver drives.
type Card struct {
	Address string // 0000:01:00.0
	ID      uint16 // PCI device ID
	Driver  string // the kernel driver that holds it; "" none
	Model   string // as the NVIDIA driver names it; "" when it does not drive the card
}

// String names a card for people: "NVIDIA A10 (0000:01:00.0)".
func (c Card) String() string {
	if c.Model == "" {
		return "GPU " + c.Address
	}
	return c.Model + " (" + c.Address + ")"
}

// cards lists display and 3D controllers (PCI class 0300 and 0302) of NVIDIA
// (vendor 10de) in the order of their addresses.
func cards(root string) ([]Card, error) {
	dir := below(root, "sys/bus/pci/devices")
	devices, err := os.ReadDir(dir)
	var list []Card
	for _, d := range devices {
		read := func(name string) string {
			line, _ := firstLine(filepath.Join(dir, d.Name(), name))
			return line
		}
		class := read("class")
		if read("vendor") != "0x10de" || !strings.HasPrefix(class, "0x0300") && !strings.HasPrefix(class, "0x0302") {
			continue
		}
		c := Card{Address: d.Name()}
		if id, err := strconv.ParseUint(strings.TrimPrefix(read("device"), "0x"), 16, 16); err == nil {
			c.ID = uint16(id)
		}
		if driver, err := os.Readlink(filepath.Join(dir, d.Name(), "driver")); err == nil {
			c.Driver = filepath.Base(driver)
		}
		c.Model = lines(infoFile(root, d.Name()))["Model"]
		list = append(list, c)
	}
	return list, err
}

// ended are the architectures that newer drivers no longer support: PCI device
// IDs and the last branch. NVIDIA's README of 470 and 580 name the branches. The
// ranges are those of the chips GK, GM, GP and GV: of the GPUs of these four in
// pci.ids of 2023-04-11, 345 are in a range, each in the right one, and no GPU of
// another architecture is. Twelve are in none: of them nothing is said.
var ended = []struct {
	first, last uint16
	name        string
	branch      int
}{
	{0x0fc0, 0x103f, "Kepler", 470}, {0x1180, 0x11ff, "Kepler", 470}, {0x1280, 0x12bf, "Kepler", 470},
	{0x1340, 0x143f, "Maxwell", 580}, {0x17c0, 0x17ff, "Maxwell", 580},
	{0x15f0, 0x15ff, "Pascal", 580}, {0x1b00, 0x1d7f, "Pascal", 580},
	{0x1d80, 0x1dff, "Volta", 580},
}

// LastBranch names the card's architecture and the newest driver branch that
// supports it, such as 470; branch is 0 for one that current drivers support, and
// for one that is not known.
func (c Card) LastBranch() (architecture string, branch int) {
	for _, r := range ended {
		if r.first <= c.ID && c.ID <= r.last {
			return r.name, r.branch
		}
	}
	return "", 0
}
