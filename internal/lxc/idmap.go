package lxc

import (
	"fmt"
	"strings"
)

// idMap is a user namespace's uid_map or gid_map.
type idMap []idRange

type idRange struct{ inside, host, count int64 }

// parseIDMap reads lines of three numbers: first id inside, first id on the
// host, how many (user_namespaces(7); the kernel allows 340 lines).
func parseIDMap(text string) (idMap, error) {
	var m idMap
	for line := range strings.Lines(text) {
		var inside, host, count uint32 // so that no sum overflows
		if n, err := fmt.Sscan(line, &inside, &host, &count); err != nil {
			return nil, fmt.Errorf("line %q: %d numbers: %w", line, n, err)
		}
		m = append(m, idRange{int64(inside), int64(host), int64(count)})
	}
	return m, nil
}

func (m idMap) toHost(id int64) (int64, bool) {
	for _, r := range m {
		if id >= r.inside && id-r.inside < r.count {
			return r.host + id - r.inside, true
		}
	}
	return 0, false
}

// hasHost reports whether a host's id is one of the container's.
func (m idMap) hasHost(id int64) bool {
	for _, r := range m {
		if id >= r.host && id-r.host < r.count {
			return true
		}
	}
	return false
}
