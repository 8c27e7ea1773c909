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

// OnAnOlderKernel has mounts on the host exchanged as before Linux 6.5.
func OnAnOlderKernel() (restore func()) {
	was := moveMountBeneath
	moveMountBeneath = 1 << 30
	return func() { moveMountBeneath = was }
}
