package lxc

import "time"

// StuckAfter lets a test be less patient.
func StuckAfter(d time.Duration) (restore func()) {
	was := stuckAfter
	stuckAfter = d
	return func() { stuckAfter = was }
}

// Waits is for tests.
var Waits = waits
