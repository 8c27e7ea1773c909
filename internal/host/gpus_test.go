package host

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// information is the file of the driver, with the fields of its own source
// (nv-procfs.c of the open kernel module 580).
const information = "Model: \t\t %s\nIRQ:   \t\t 42\nGPU UUID: \t %s\nVideo BIOS: \t 94.02.71.40.1c\nBus Type: \t PCIe\n" +
	"DMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t %s\nDevice Minor: \t %d\nGPU Firmware: \t 580.76.05\nGPU Excluded:\t %s\n"

func TestCardsAreCountedAsNvidiaSMICounts(t *testing.T) {
	m := newMachine(t)
	m.remove("proc/driver/nvidia/gpus")
	card := func(address string, minor int, model, uuid, excluded string) {
		m.file("proc/driver/nvidia/gpus/"+address+"/information", fmt.Sprintf(information, model, uuid, address, minor, excluded))
	}
	card("0000:41:00.0", 0, "NVIDIA A10", "GPU-aaaa0000-0000-0000-0000-000000000001", "No")
	card("0000:01:00.0", 2, "NVIDIA L40S", "GPU-bbbb0000-0000-0000-0000-000000000002", "No")
	card("0000:02:00.0", 3, "NVIDIA L4", "GPU-????????-????-????-????-????????????", "No")
	card("0000:03:00.0", 1, "NVIDIA L4", "GPU-cccc0000-0000-0000-0000-000000000003", "Yes")
	card("10000:01:00.0", 4, "NVIDIA L4", "GPU-dddd0000-0000-0000-0000-000000000004", "No")
	m.file("proc/driver/nvidia/gpus/0000:05:00.0/information", "Model: broken\n")
	var text []string
	for _, g := range ReadGPUs(m.root) {
		text = append(text, g.String())
	}
	require.Equal(t, []string{
		"NVIDIA L40S (GPU 0, 0000:01:00.0, GPU-bbbb0000-0000-0000-0000-000000000002, /dev/nvidia2)",
		"NVIDIA L4 (GPU 1, 0000:02:00.0, /dev/nvidia3)",
		"NVIDIA A10 (GPU 2, 0000:41:00.0, GPU-aaaa0000-0000-0000-0000-000000000001, /dev/nvidia0)",
		"NVIDIA L4 (GPU 3, 10000:01:00.0, GPU-dddd0000-0000-0000-0000-000000000004, /dev/nvidia4)",
	}, text)
}

func TestInstancesOfMIGAndTheNodesThatOpenThem(t *testing.T) {
	m := newMachine(t)
	access := func(name string, minor int) {
		m.file("proc/driver/nvidia/capabilities/gpu0/mig/"+name+"/access", fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", minor))
	}
	access("gi9", 84)
	access("gi9/ci0", 85)
	access("gi2", 21)
	access("gi2/ci1", 23)
	access("gi2/ci0", 22)
	require.Equal(t, []Instance{{2, 0, []uint32{21, 22}}, {2, 1, []uint32{21, 23}}, {9, 0, []uint32{84, 85}}}, ReadGPUs(m.root)[0].Instances)

	// After a reboot there are none: the nodes stay, so that containers start.
	m.remove("proc/driver/nvidia/capabilities/gpu0")
	for _, made := range []string{"made /dev/nvidia-caps/nvidia-cap21, so that containers that name it can start", ""} {
		said := ""
		gone, err := HoldCaps(m.root, []uint32{21, 1}, func(line string) { said += line })
		require.NoError(t, err)
		require.Equal(t, []uint32{21}, gone)
		require.Equal(t, made, said)
	}
	require.Contains(t, m.nodes(), "/dev/nvidia-caps/nvidia-cap21 236:21 0444 0:0 true")
}
