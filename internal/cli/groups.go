package cli

import (
	"cmp"
	"slices"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/config"
)

// group is containers that get the same GPUs.
type group struct {
	gpus string
	ids  []int
}

// into puts a container into the group that gets these GPUs.
func into(groups []group, gpus string, id int) []group {
	i := slices.IndexFunc(groups, func(g group) bool { return g.gpus == gpus })
	if i < 0 {
		return append(groups, group{gpus, []int{id}})
	}
	groups[i].ids = append(groups[i].ids, id)
	return groups
}

// byGPUs sorts containers by the GPUs that they get: what was typed, else what
// the configuration says of each, else what was chosen before, else all.
func byGPUs(conf *config.Config, ids []int, typed string, before func(config.Settings) string) ([]group, []config.Settings, error) {
	var groups []group
	var settings []config.Settings
	for _, id := range ids {
		s, err := conf.For(id)
		if err != nil {
			return nil, nil, err
		}
		gpus := typed
		if gpus == "" && s.Origin("gpus") == "default" {
			gpus = before(s)
		}
		gpus = cmp.Or(gpus, s.GPUs)
		settings = append(settings, s)
		groups = into(groups, gpus, id)
	}
	return groups, settings, nil
}
