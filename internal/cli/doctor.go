package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/doctor"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/say"
)

func (a *app) doctor() *cobra.Command {
	var asJSON, deep, verbose bool
	c := &cobra.Command{
		Use:   "doctor [VMID...]",
		Short: "find what is wrong and say what to do",
		Long: `Look at this node and its containers, and say what is wrong, each with what to
do about it. Nothing is changed (but --deep has the cache remember what it
finds), no program is started in a container, and no network is touched.

Without a VMID the containers of this node are looked at that have the
hookscript or had it from enable, and those that the configuration wants a
driver in; where there is no Proxmox VE, all that LXC has (paths.lxc).

Of the host:

    configuration    every mistake of every configuration file
    kernel-module    NVIDIA's kernel module is loaded and its version known
    host-driver      the host's own libraries are of the module's version
    nouveau          nouveau, which would hold the GPU, is not loaded
    device-nodes     the NVIDIA nodes in /dev have the driver's numbers of now
    devices-unit     a unit makes /dev/nvidia-uvm at boot, before guests start
    proxmox          this is a node of Proxmox VE that can be looked at
    state            the state folder is root's alone
    hook-program     the hookscript finds the program, here and on other nodes
    cache            the cache folder is root's alone, and its locks work
    cache-room       it has room for the driver that is wanted
    cache-files      its run files are as they were when they were verified;
                     --deep reads them through and checks their hashes

Of each container:

    container        it is there, and a container of this node
    settings         its settings have no mistakes; where they want no driver,
                     only what keeps it from starting is looked at
    hookscript       the hookscript line is this program's, its file is there,
                     executable and of this version
    entries-on-host  the host has what its devN and lxc.mount.entry lines name
    entries          these lines bring the chosen GPUs, each node once
    entry-mode       no devN is for root alone (Proxmox's default is 0660)
    device-rules     lxc.cgroup2.devices.allow lines fit the numbers of today
    lock             no run works on it just now
    last-run         how the last run went, and when the next may be

Of each running container:

    nodes-inside     its NVIDIA nodes are devices with the host's numbers
    versions         container, host and configuration have one driver version
    record           its files are as they were recorded after the installation
    orphans          no libraries of another driver version are left
    obstacles        no driver packages of the distribution; ldconfig and
                     glibc are there
    disk, memory     there is room, and the memory limit is not under 512 MiB

Each finding is ok, a problem (something does not work, or will not at the next
start), a warning (it works, but not for everybody or not for long) or unknown
(it could not be looked at, which is never taken for well or for wrong).

Exit status: 0 no problems (warnings and unknowns there may be), 1 problems,
2 wrong usage.`,
		Example: `  pve-nvidia-hook doctor                this node and its containers
  pve-nvidia-hook doctor 101 --verbose  what is well, too
  pve-nvidia-hook doctor --json | jq '.[] | select(.level == "problem")'`,
		Args: args(0, -1, "VMIDs"),
		RunE: func(c *cobra.Command, words []string) error {
			ids, err := vmids(words)
			if err != nil {
				return err
			}
			o := doctor.Options{Host: a.host, VMIDs: ids, Deep: deep}
			if o.Config, err = a.load(); err != nil {
				o.Config, o.ConfigError = nil, err
			}
			report := doctor.Examine(c.Context(), o)
			if err := c.Context().Err(); err != nil {
				return stopped(c.Context(), err, "doctor", "nothing was changed; run it again") // what was broken off is not the container's fault
			}
			if asJSON {
				err = say.JSON(c.OutOrStdout(), report.Findings)
			} else {
				colour := c.OutOrStdout() == os.Stdout && isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == ""
				err = report.Print(c.OutOrStdout(), verbose, colour)
			}
			if err != nil {
				return err
			}
			if report.Problems() {
				return errSaid
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&asJSON, "json", false, "print a list of findings as JSON")
	flags.BoolVar(&deep, "deep", false, "check the hashes of the cached run files (seconds each)")
	flags.BoolVar(&verbose, "verbose", false, "show what is well, too")
	return c
}
