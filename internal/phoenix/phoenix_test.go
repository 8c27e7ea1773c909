package phoenix

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The checks of settings, and what comes of them, are tested in internal/config.
func anything(_, text string) (normal, wrong, allowed string) { return text, "", "anything" }

func TestTheNearestWordCounts(t *testing.T) {
	var p Phoenix
	require.Empty(t, p.ReadLXCConfigs("/etc/lxc.json", []byte(`{"nvidia_driver_version":"root","lxc_configs":{
		"900":{"features":["nvidia"],"nvidia_driver_version":"parent"},
		"901":{"clone_from_ctid":"900","name":"web","gpu_assignment":"0"},
		"902":{}}}`), anything))
	require.Empty(t, p.ReadHypervisorConfig("/etc/hv.json", []byte(`{"nvidia_driver":{"version":"node","cuda_version":"12.8"}}`), anything))
	texts := func(g Guest) map[string]string {
		all := map[string]string{}
		for _, v := range g.Values {
			all[v.Setting] = v.Text + ", " + v.Origin
		}
		return all
	}
	g, wrong := p.For(901)
	require.Nil(t, wrong)
	require.Equal(t, "web", g.Name)
	require.True(t, g.Wanted)
	require.Equal(t, map[string]string{
		"driver.version": "parent, lxc.json, container 900 (parent of 901)",
		"cuda.toolkit":   "12.8, hv.json",
		"gpus":           "0, lxc.json, container 901",
	}, texts(g))
	g, _ = p.For(902)
	require.False(t, g.Wanted)
	require.Equal(t, "root, lxc.json", texts(g)["driver.version"])
	require.ElementsMatch(t, []int{900, 901, 902}, p.Containers())
}

func TestWhatIsWrongIsNamedWithItsLine(t *testing.T) {
	var p Phoenix
	found := p.ReadLXCConfigs("l.json", []byte("{\"lxc_configs\":{\n\"901\":{\n\"name\":5,\n\"features\":[1]}}}"), anything)
	require.ElementsMatch(t, []Problem{
		{"l.json", 3, "lxc_configs.901.name", "must be a string, is a number", "anything"},
		{"l.json", 4, "lxc_configs.901.features", "item 1 must be a string, is a number", `a list of strings such as ["nvidia"]`},
	}, found)
}
