package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal is a program of the tests: terminal COLUMNS COMMAND ARGUMENT...
// It runs a command in a terminal of its own, of so many columns, types there what
// it reads from stdin, and writes what appears there to stdout.
func terminal() {
	status, err := inTerminal(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "terminal:", err)
		os.Exit(125)
	}
	os.Exit(status)
}

func inTerminal(columns string, command []string) (status int, err error) {
	width, err := strconv.ParseUint(columns, 10, 16)
	if err != nil {
		return 0, err
	}
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	fd := int(screen.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(width)})); err != nil {
		return 0, err
	}
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return 0, err
	}
	modes.Oflag &^= unix.OPOST // lines end as the command ends them
	modes.Lflag &^= unix.ECHO  // what is typed would stand anywhere between
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, modes); err != nil {
		return 0, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	tty.Close()
	go func() { _, _ = io.Copy(screen, os.Stdin) }()
	// The terminal ends with the last process that has it open, by EIO.
	if _, err := io.Copy(os.Stdout, screen); err != nil && !errors.Is(err, unix.EIO) {
		return 0, err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
