package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/hint"
)

// Runner runs a program of the host to its end. It returns exec.ErrNotFound
// (wrapped) where there is no such program.
type Runner func(ctx context.Context, name string, args ...string) error

// makeLimit bounds what is run. What the kernel says by then is still made, so
// that the TimeoutStartSec of pve-nvidia-hook-devices.service is somewhat longer.
const makeLimit = 2 * time.Minute

// MakeNodes makes the NVIDIA device nodes exist in dev below root ("" is /):
// Proxmox starts no container with a devN entry whose node is missing, and
// nothing makes /dev/nvidia-uvm at boot. nvidia-modprobe does it where it is
// installed, since it knows the driver; what it leaves undone, or all of it
// where it is not there, is made from what the kernel says, after modprobe has
// loaded the modules. It calls say for each change and once when there is none.
// A host without a GPU is no error; one whose modules are not loaded is.
// run nil is Run; below another root than / nothing is run with it.
func MakeNodes(ctx context.Context, root string, run Runner, say func(line string)) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	if run == nil {
		run = Run
		if root != "" && root != "/" {
			run = func(context.Context, string, ...string) error { return exec.ErrNotFound }
		}
	}
	tried, facts := map[string]error{}, ReadFacts(root)
	if !facts.loaded {
		switch {
		case facts.PCI == 0 && facts.VFIO > 0:
			say("the GPUs of this host are handed to virtual machines (vfio-pci), there is nothing to do")
			return nil
		case facts.PCI == 0:
			say("this host has no NVIDIA GPU, there is nothing to do")
			return nil
		}
	}
	helper, err := modprobe(ctx, run, facts)
	if err != nil {
		say(fmt.Sprintf("warning: %v", err))
	}
	load := func(module string) {
		tried[module] = run(ctx, "modprobe", module)
		facts = ReadFacts(root)
	}
	if facts = ReadFacts(root); !facts.loaded && !helper {
		load("nvidia")
	}
	if !facts.loaded {
		const next = "is the driver installed on the host, for this kernel? see dmesg, and pve-nvidia-hook doctor"
		if err := tried["nvidia"]; err != nil && !errors.Is(err, exec.ErrNotFound) {
			return hint.Errorf(next, "the host has an NVIDIA GPU, but its kernel module nvidia cannot be loaded: %w", err)
		}
		return hint.Errorf(next, "the host has an NVIDIA GPU, but its kernel module nvidia is not loaded")
	}
	if _, ok := facts.Major("nvidia-uvm"); !ok && !helper {
		load("nvidia-uvm")
	}
	if err := facts.mend(root, say); err != nil {
		return err
	}
	if _, ok := facts.Major("nvidia-uvm"); !ok {
		err := errors.New("the kernel module nvidia-uvm is not loaded, so there is no /dev/nvidia-uvm and no CUDA")
		if why := tried["nvidia-uvm"]; why != nil && !errors.Is(why, exec.ErrNotFound) {
			err = fmt.Errorf("%w: %w", err, why)
		}
		return hint.Wrap(err, "see dmesg, and pve-nvidia-hook doctor")
	}
	if len(facts.GPUs) == 0 {
		return hint.Errorf("see dmesg, and pve-nvidia-hook doctor", "the kernel module found no GPU")
	}
	return nil
}

// modprobe lets nvidia-modprobe load the modules and make their nodes. It
// reports whether the program is there.
func modprobe(ctx context.Context, run Runner, facts Facts) (bool, error) {
	calls := [][]string{nil} // the module and nvidiactl
	for _, minor := range facts.GPUs {
		calls = append(calls, []string{"-c", fmt.Sprint(minor)})
	}
	if len(facts.GPUs) == 0 { // the module is not loaded yet and counts none
		for minor := range facts.PCI {
			calls = append(calls, []string{"-c", fmt.Sprint(minor)})
		}
	}
	calls = append(calls, []string{"-u", "-c", "0"}) // nvidia-uvm with both of its nodes
	if facts.modeset {
		calls = append(calls, []string{"-m"})
	}
	var errs []error
	for _, args := range calls {
		err := run(ctx, "nvidia-modprobe", args...)
		if errors.Is(err, exec.ErrNotFound) {
			return false, nil
		}
		errs = append(errs, err)
	}
	return true, errors.Join(errs...)
}

// mend makes every wanted node what it should be.
func (f Facts) mend(root string, say func(string)) error {
	var errs []error
	done, right := 0, 0
	for _, want := range f.Nodes() {
		var old *Node
		if n, err := lookAt(root, want.Path); err == nil {
			old = &n
		}
		words := want.mend(old)
		if words == "" {
			right++
			continue
		}
		if !f.params.modify {
			say(fmt.Sprintf("left %s alone, the driver's option ModifyDeviceFiles is 0", want.Path))
			continue
		}
		onlyMode := old != nil && old.IsChar && old.Major == want.Major && old.Minor == want.Minor
		if err := want.make(root, onlyMode); err != nil {
			errs = append(errs, err)
			continue
		}
		done++
		say(words)
	}
	if _, uvm := f.Major("nvidia-uvm"); uvm && done == 0 && len(errs) == 0 && len(f.GPUs) > 0 && f.params.modify {
		say(fmt.Sprintf("all %d device nodes are in place", right))
	}
	return errors.Join(errs...)
}

// Run runs a program with a deadline of a minute: loading the driver can take
// some seconds for each GPU.
func Run(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if len(text) > 500 {
		text = text[:500]
	}
	if text != "" {
		text = ": " + text
	}
	return fmt.Errorf("%s: %w%s", strings.Join(append([]string{name}, args...), " "), err, text)
}
