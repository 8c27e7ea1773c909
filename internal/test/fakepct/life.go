package main

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// copied is what a clone or a backup takes of a configuration: all of the live
// section but what belongs to this one container (PVE::API2::LXC, clone_vm, and
// sanitize_and_merge_config of PVE::LXC::Create).
func (c *conf) copied() *part {
	p := newPart()
	p.comment, p.lxc, p.values = c.live.comment, c.live.lxc, maps.Clone(c.live.values)
	for _, key := range []string{"lock", "parent", "template"} {
		delete(p.values, key)
	}
	return p
}

// clone copies the configuration of a container under another number.
func clone(vmid int, args []string) error {
	if len(args) == 0 {
		return die("400 not enough arguments\npct clone <vmid> <newid> [OPTIONS]")
	}
	to, err := strconv.Atoi(args[0])
	if err != nil || to < 100 {
		return die("400 Parameter verification failed.\nnewid: invalid format - value does not look like a valid VM ID\n")
	}
	return withLock(vmid, func() error {
		c, err := load(vmid)
		if err != nil {
			return err
		}
		return c.create(to, false)
	})
}

// create writes a new configuration from what c has to give.
func (c *conf) create(vmid int, force bool) error {
	if _, err := os.Stat(below("etc/pve", confPath(vmid))); err == nil && !force {
		return die("unable to create CT %d: config file already exists", vmid)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	n := &conf{vmid: vmid, live: c.copied(), pending: newPart(), snapshots: map[string]*part{}}
	return n.save()
}

// destroy removes a container that does not run.
func destroy(vmid int, args []string) error {
	return withLock(vmid, func() error {
		if _, err := load(vmid); err != nil {
			return err
		}
		if running(vmid) && !slices.Contains(args, "--force") {
			return die("unable to destroy CT %d - container is running", vmid)
		}
		return os.Remove(below("etc/pve", confPath(vmid)))
	})
}

// restore makes a container from a backup. The stand-in for an archive is the
// file that the archive has as etc/vzdump/pct.conf.
func restore(vmid int, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return die("400 not enough arguments\npct restore <vmid> <ostemplate> [OPTIONS]")
	}
	return withLock(vmid, func() error {
		c, err := read(args[0], vmid)
		if err != nil {
			return die("unable to restore CT %d - %v", vmid, err)
		}
		return c.create(vmid, slices.Contains(args, "--force"))
	})
}
