package pve

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/host"
)

// remember keeps which card each node was when it was chosen.
func (s *State) remember(c Choice) {
	s.GPUs, s.Cards = c.Asked, map[string]string{}
	for _, g := range c.Cards {
		if g.UUID != "" {
			s.Cards[g.Node()] = g.UUID
		}
	}
}

// Changes says how the host's cards differ from those that enable has given to a
// container: numbers of nodes follow the order in which the driver finds cards, so
// that a new card can take the number of another. enable, called again, puts it
// right. It is empty where nothing is remembered, and while the driver does not
// know the UUIDs.
func (s State) Changes(c Conf, cards []host.GPU) []string {
	next := c.Next()
	unknown := slices.ContainsFunc(cards, func(g host.GPU) bool { return g.UUID == "" })
	if len(cards) == 0 || unknown || s.Hookscript != next.Hookscript || !s.holds(next) {
		return nil
	}
	at := func(is func(host.GPU) bool) (host.GPU, bool) {
		i := slices.IndexFunc(cards, is)
		if i < 0 {
			return host.GPU{}, false
		}
		return cards[i], true
	}
	var said []string
	for _, node := range sortedKeys(s.Cards) {
		uuid := s.Cards[node]
		own, here := at(func(g host.GPU) bool { return g.UUID == uuid })
		now, other := at(func(g host.GPU) bool { return g.Node() == node })
		switch {
		case here && own.Node() == node:
		case here && other:
			said = append(said, fmt.Sprintf("%s is now %s; the card that was chosen is now %s", node, now, own))
		case here:
			said = append(said, fmt.Sprintf("the card that was chosen as %s is now %s", node, own))
		case other:
			said = append(said, fmt.Sprintf("%s is now %s; the card that was chosen, %s, is not in this host", node, now, uuid))
		default:
			said = append(said, fmt.Sprintf("the card that was chosen as %s, %s, is not in this host", node, uuid))
		}
	}
	for _, g := range cards {
		if s.GPUs == "all" && len(s.Cards) > 0 && !slices.Contains(slices.Collect(maps.Values(s.Cards)), g.UUID) {
			said = append(said, fmt.Sprintf("%s has been added to this host, and all were chosen", g))
		}
	}
	return said
}

// Chosen is the choice of GPUs that holds for a container which uses this program:
// the one that enable remembers, else that of the entries as they stand, such as
// those of a clone. It is "" for a container that does not use it.
func (s State) Chosen(c Conf, cards []host.GPU) string {
	next := c.Next()
	switch {
	case !Ours(next.Hookscript):
		return ""
	case s.of(next) && (s.GPUs != "" || s.None):
		return cmp.Or(s.GPUs, "none")
	}
	var found []string
	for _, g := range cards {
		for _, value := range next.Dev {
			if devPath(value) == g.Node() {
				found = append(found, cmp.Or(g.UUID, g.Address, strconv.Itoa(g.Index)))
			}
		}
	}
	return cmp.Or(strings.Join(found, ","), "none")
}
