// Package fakerun writes run files in the form of NVIDIA's driver installers, for
// tests, demo and bench: a shell header, an embedded decompressor, a compressed tar with
// .manifest, libraries that ldconfig takes for real ones, an installer and an
// nvidia-smi. They hold nothing of NVIDIA's and drive no hardware.
//
// The installer is a POSIX shell script that behaves as NVIDIA's does, in the unpleasant
// things above all: it knows only the options of its version and refuses others with
// status 1 before it opens a log; it needs root and modprobe, rmmod, lsmod and
// depmod in PATH; it refuses to work beside a distribution's driver
// (/usr/lib/nvidia/alternate-install-present); it removes an older driver first,
// which calls rmmod; it writes the new version into /var/lib/nvidia/log before the
// first file is there, and a file only when it is copied, and its links only after
// the last one; it goes on after errors and then says "is now complete" with status 0;
// it takes libraries of its names away that others put anywhere below the library
// folders, unless --no-recursion; it refuses the whole .manifest for one type that it
// does not know; the last line of its stderr names no cause; its uninstaller leaves
// links that lead nowhere.
//
// # Faults
//
// Files inside the container make it fail. Their words are separated by white space.
//
// /etc/sample-nvidia-installer, read before anything is changed:
//
//	exit0-nothing     say that all went well, status 0, install nothing
//	loader            fail as the dynamic loader does for want of a library, status 127
//	rc=N              say that it failed, status N, install nothing
//	hang              wait for ever; SIGTERM ends it
//	hang-ignore-term  wait for ever; only SIGKILL ends it
//	forever           print without end
//	fork              leave a process that ignores SIGTERM and holds stdout, go on
//	slow=SECONDS      wait between two files
//	die-half          SIGKILL itself when half of the files are there, within the next
//	skip=TEXT         leave out every file and link whose path holds TEXT
//
// /etc/sample-nvidia-smi:
//
//	4 9 12 15 17 18 255  fail with this status and nvidia-smi's text for it
//	nodes                look for /dev/nvidia0: without it, fail with 9, or where it may
//	                     make nodes leave a /dev/nvidiactl and fail with 255
//	version=X            claim to be version X
//	cap=X                have a second GPU of this compute capability; cap=unknown: not know the query
//	hang, hang-ignore-term, forever, daemon   as above (daemon is fork)
//
// Without that file nvidia-smi needs no GPU. It fails with 12 when there is no
// libnvidia-ml.so.1 and with 18 when that leads to another version's file.
package fakerun
