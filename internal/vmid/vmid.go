// Package vmid knows the numbers of Proxmox VE's guests.
package vmid

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Parse reads a guest's number as Proxmox VE defines it: 100 to 999999999,
// without sign or leading zero.
func Parse(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 100 || n > 999999999 || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("%.40q is not a valid VMID; a VMID is a number from 100 to 999999999", s)
	}
	return n, nil
}

// In lists the guests that files or folders of dir are named by, in no order:
// those whose names are a VMID and the suffix.
func In(dir, suffix string) ([]int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, name := range names {
		base, ok := strings.CutSuffix(name, suffix)
		if id, err := Parse(base); ok && err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
