package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/hook"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/lab"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/rig"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/sample/fakerun"
)

// status reads what status says, by VMID.
func statusOf(t *testing.T, r *rig.Rig) map[int]statusRow {
	t.Helper()
	var rows []statusRow
	said, err := r.Run(t.Context(), "status", "--json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(said.Text), &rows), said.Text)
	by := map[int]statusRow{}
	for _, row := range rows {
		by[row.VMID] = row
	}
	return by
}

// newRig makes the surroundings of a node whose kernel module has the first of the
// versions. run runs the program there and expects an exit status.
func newRig(t *testing.T, l *lab.Lab, versions ...string) (r *rig.Rig, run func(code int, args ...string) string) {
	t.Helper()
	samples := t.TempDir()
	for _, v := range versions {
		_, err := fakerun.Write(samples, fakerun.Spec{Version: v})
		require.NoError(t, err)
	}
	program, err := rig.Build(t.Context(), t.TempDir())
	require.NoError(t, err)
	r, err = rig.New(t.TempDir(), program, l.Path, samples)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.Module(versions[0]))
	return r, func(code int, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		said, err := r.Run(ctx, args...)
		require.NoError(t, err)
		require.Equal(t, code, said.Code, said.Text)
		return said.Text
	}
}

func TestApplyBringsRunningContainersIntoLine(t *testing.T) {
	l := labtest.Open(t)
	r, run := newRig(t, l, "550.163.01", "580.142")
	labtest.StartIn(t, l, lab.Spec{VMID: 101})
	bad := labtest.StartIn(t, l, lab.Spec{VMID: 102})
	stopped := labtest.StartIn(t, l, lab.Spec{VMID: 103})
	require.NoError(t, stopped.Stop())
	require.NoError(t, r.Configure("[containers.104]\n[containers.101]\n"))

	said := run(0, "apply", "--all", "--dry-run")
	require.Contains(t, said, "2 containers: 2 to be done")
	require.Contains(t, said, "3. check that every file of the driver is there")
	require.Zero(t, r.Mirror.Total())

	// Both in one go, their lines told apart by the VMID.
	said = run(0, "apply", "--all")
	require.Contains(t, said, "2 containers: 2 installed\n")
	for _, id := range []string{"101", "102"} {
		require.Contains(t, said, "pve-nvidia-hook "+id+": driver 550.163.01 is installed and nvidia-smi works")
	}
	said = run(0, "apply", "--all")
	require.Contains(t, said, "2 containers: 2 in place\n")

	rows := statusOf(t, r)
	require.Len(t, rows, 4)
	require.True(t, rows[101].OK)
	require.True(t, rows[101].Running)
	require.EqualValues(t, "550.163.01", rows[101].Installed)
	require.EqualValues(t, "skipped", rows[101].LastRun.Result)
	require.False(t, rows[103].Running)
	require.Contains(t, rows[103].Reason, "the next start installs 550.163.01")

	// What is not as recorded is seen by status, and put right by apply.
	require.NoError(t, os.Remove(bad.Root+"/usr/bin/nvidia-smi"))
	rows = statusOf(t, r)
	require.False(t, rows[102].OK)
	require.Contains(t, rows[102].Reason, "nvidia-smi is gone")
	require.Contains(t, run(0, "apply", "101", "102"), "2 containers: 1 in place, 1 installed\n")

	// One that fails fails the whole, and the others are done all the same.
	require.NoError(t, r.Module("580.142"))
	_, err := bad.Attach(t.Context(), "sh", "-c", "echo rc=1 >/etc/sample-nvidia-installer")
	require.NoError(t, err)
	said = run(1, "apply", "--all")
	require.Contains(t, said, "2 containers: 1 installed, 1 failed (102)\n")
	require.Contains(t, run(1, "102", "post-start"), "nvidia-installer", "it took no time, so it is tried again")
	require.NoError(t, r.FailedAtLength(102))
	said = run(1, "102", "post-start")
	require.Contains(t, said, "at once: pve-nvidia-hook apply 102")
	require.Contains(t, run(1, "apply", "--all"), "next attempt after")
	require.Contains(t, run(1, "apply", "102"), "nvidia-installer", "who names it wants it tried")
	require.NoError(t, r.FailedAtLength(102))
	require.Contains(t, run(1, "replay", "102", "post-start"), "hint: to try again at once, add --force")
	rows = statusOf(t, r)
	require.False(t, rows[102].OK)
	require.Contains(t, rows[102].Reason, "next attempt after")
	_, err = bad.Attach(t.Context(), "rm", "/etc/sample-nvidia-installer")
	require.NoError(t, err)
	require.Contains(t, run(0, "apply", "102"), "1 container: 1 installed\n")

	require.Contains(t, run(1, "apply", "101", "103"), "2 containers: 1 in place, 1 refused (103)\n")
	// A stopped container shows what its last run left.
	require.NoError(t, bad.Stop())
	rows = statusOf(t, r)
	require.True(t, rows[102].OK, rows[102].Reason)
	require.False(t, rows[102].Running)
	require.EqualValues(t, "580.142", rows[102].Installed)

	text := run(0, "status")
	require.Contains(t, text, "(580.142)")
	require.NotContains(t, text, "\x1b")
}

// What nobody wants any more is not brought back, however often the timer runs.
func TestApplyAllLeavesAloneWhatDoesNotFollow(t *testing.T) {
	l := labtest.Open(t)
	r, run := newRig(t, l, "580.142")
	conf := func(vmid, text string) {
		name := r.Path("host/etc/pve/nodes/pve1/lxc", vmid+".conf")
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	conf("101", "hostname: web\nhookscript: local:snippets/pve-nvidia-hook\n")
	conf("102", "hostname: db\n")
	conf("103", "hostname: mail\n")
	require.NoError(t, os.Symlink("nodes/pve1", r.Path("host/etc/pve/local")))
	for _, vmid := range []int{101, 102, 103} {
		labtest.StartIn(t, l, lab.Spec{VMID: vmid})
	}

	require.Contains(t, run(0, "apply", "101", "102"), "2 containers: 2 installed\n", "who is named is worked on")
	require.Contains(t, run(0, "uninstall", "101"), "the next start of 101 installs it again")
	require.NotContains(t, run(0, "uninstall", "102"), "again")
	require.Contains(t, run(0, "apply", "--all"), "1 container: 1 installed\n")
	rows := statusOf(t, r)
	require.Len(t, rows, 2, "103 never had to do with it")
	require.True(t, rows[102].OK)
	require.Empty(t, rows[102].Wanted)
	require.Contains(t, rows[102].Reason, "not followed: ")
	require.NotContains(t, run(1, "doctor"), "container 102")

	// A mistake in the settings of one that runs is no reason to leave it out.
	require.NoError(t, r.Configure("[containers.103]\nurls = [\"http://mirror.example/{file}\"]\n"))
	said := run(1, "apply", "--all")
	require.Contains(t, said, "2 containers: 1 in place, 1 refused (103)\n")
	require.Contains(t, said, "is not https, and no sha256 is pinned")
	rows = statusOf(t, r)
	require.True(t, rows[103].Running)
	require.False(t, rows[103].OK)
	require.Contains(t, rows[103].Reason, "is not https, and no sha256 is pinned")

	// Without the cluster file system nobody can tell who follows.
	require.NoError(t, os.RemoveAll(r.Path("host/etc/pve/nodes")))
	require.Contains(t, run(1, "apply", "--all"), "the cluster file system is not mounted")
}

func TestStatusNamesEachOfTwoHundredContainersWithItsLastRun(t *testing.T) {
	labtest.Need(t)
	dir := labtest.ShortDir(t)
	program, err := rig.Build(t.Context(), dir)
	require.NoError(t, err)
	r, err := rig.New(dir, program, dir+"/lxc", dir)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.Module("580.142"))
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
	for vmid := 1000; vmid < 1200; vmid++ {
		folder := fmt.Sprintf("%s/lxc/%d", dir, vmid)
		write(folder+"/config", fmt.Sprintf("lxc.include = /usr/share/lxc/config/common.conf\nlxc.rootfs.path = dir:%s/rootfs\nlxc.uts.name = ct%d\n", folder, vmid))
		for day, result := range []hook.Result{hook.Refused, hook.Installed} {
			write(r.Path("state/runs", fmt.Sprint(vmid), fmt.Sprintf("2026030%dT101502.000000Z.json", day+1)),
				fmt.Sprintf(`{"program": "1.0", "at": "2026-03-0%dT10:15:02Z", "vmid": %d, "phase": "post-start", "result": %q, "left": {"driver": "580.142"}}`, day+1, vmid, result))
		}
	}
	rows := statusOf(t, r)
	require.Len(t, rows, 200)
	for vmid, row := range rows {
		require.True(t, row.OK, "%d: %s", vmid, row.Reason)
		require.EqualValues(t, "580.142", row.Installed)
		require.Equal(t, hook.Installed, row.LastRun.Result)
	}
}
