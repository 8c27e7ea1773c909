// Command fakepct stands in for Proxmox's pct in tests. It keeps the guests'
// configurations in the real file format at the real place, takes the real
// lock, refuses what the real one refuses in the same words, and runs a
// hookscript as Proxmox does.
//
// FAKEPCT_ROOT is the root folder (else PVE_NVIDIA_HOOK_HOST_ROOT, else /),
// FAKEPCT_RUNNING the containers that count as running ("101,102"; else
// lxc-info says), FAKEPCT_LOCK_TIMEOUT how long the lock is waited for (10s),
// FAKEPCT_LXCPATH where LXC keeps the containers (/var/lib/lxc). FAKEPCT_PVE=8
// is a Proxmox VE that plugs no devices into running containers;
// FAKEPCT_HOTPLUG_FAILS are those that cannot be plugged in ("dev0,dev3").
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// exit is an error with the exit status that the real command ends with: a
// plain die gives 255, one after a missing file gives ENOENT's 2.
type exit struct {
	code int
	text string
}

func (e exit) Error() string { return e.text }

func die(format string, args ...any) error { return exit{255, fmt.Sprintf(format, args...)} }

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	var e exit
	if errors.As(err, &e) {
		os.Exit(e.code)
	}
	os.Exit(255)
}

func run(args []string) error {
	if os.Geteuid() != 0 {
		return die("please run as root")
	}
	if len(args) == 0 {
		return die("ERROR: no command specified\npct <COMMAND> [ARGS] [OPTIONS]")
	}
	if args[0] == "list" {
		return listGuests()
	}
	verbs := map[string]func(vmid int, args []string) error{
		"set": set, "config": config, "status": status, "start": start, "stop": stop, "reboot": reboot, "exec": execIn,
		"clone": clone, "destroy": destroy, "restore": restore,
	}
	verb := verbs[args[0]]
	if verb == nil {
		return die("ERROR: unknown command 'pct %s'\npct <COMMAND> [ARGS] [OPTIONS]", args[0])
	}
	if len(args) < 2 {
		return die("400 not enough arguments\npct %s <vmid> [OPTIONS]", args[0])
	}
	vmid, err := strconv.Atoi(args[1])
	if err != nil || vmid < 100 || vmid > 999999999 {
		return die("400 Parameter verification failed.\nvmid: invalid format - value does not look like a valid VM ID\n\npct %s <vmid> [OPTIONS]", args[0])
	}
	return verb(vmid, args[2:])
}

func root() string {
	for _, name := range []string{"FAKEPCT_ROOT", "PVE_NVIDIA_HOOK_HOST_ROOT"} {
		if dir := os.Getenv(name); dir != "" {
			return dir
		}
	}
	return "/"
}

func below(path ...string) string { return filepath.Join(append([]string{root()}, path...)...) }

// node is this node's name: pmxcfs shows it as the target of /etc/pve/local.
func node() string {
	if target, err := os.Readlink(below("etc/pve/local")); err == nil {
		return filepath.Base(target)
	}
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return name
}

// withLock runs do under the lock that start, set and the other changing
// commands of a container share.
func withLock(vmid int, do func() error) error {
	name := fmt.Sprintf("/run/lock/lxc/pve-config-%d.lock", vmid)
	if err := os.MkdirAll(filepath.Dir(below(name)), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(below(name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	wait := 10 * time.Second
	if d, err := time.ParseDuration(os.Getenv("FAKEPCT_LOCK_TIMEOUT")); err == nil {
		wait = d
	}
	lock := func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
	if lock() != nil {
		fmt.Fprintln(os.Stderr, "trying to acquire lock...")
		for end := time.Now().Add(wait); lock() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				return die("can't lock file '%s' - got timeout", name)
			}
		}
		fmt.Fprintln(os.Stderr, " OK")
	}
	return do()
}
