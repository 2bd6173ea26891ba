package agent

import (
	"cmp"
	"slices"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/membership"
)

// How a link is, in the link matrix.
const (
	linkOK       = "ok"
	linkFallback = "fallback" // gossip goes by TCP
	linkDown     = "down"
	linkUnknown  = "unknown"
)

const (
	maxLinkPeers = 32 // agents outside the core that one agent measures its links to
	maxMatrix    = 64 // agents in one matrix
)

// linkPeers chooses whom an agent measures its links to: all core members, and of the others those that follow it
// in the order of names, so that in a large cluster each is measured by as many.
func linkPeers(self string, members []membership.Member, core []string) []string {
	var peers, others []string
	for _, m := range members {
		switch {
		case m.Name == self || m.State.Gone():
		case slices.Contains(core, m.Name):
			peers = append(peers, m.Name)
		default:
			others = append(others, m.Name)
		}
	}
	slices.Sort(others)
	after, _ := slices.BinarySearch(others, self)
	others = slices.Concat(others[after:], others[:after])
	return append(peers, others[:min(len(others), maxLinkPeers)]...)
}

// ping is the outcome of one call to a peer.
type ping struct {
	ok   bool
	ms   float64
	safe int // its safe mode
}

// linkRow is one agent's own links: gossip knows how packets go, the last calls whether they get through. A peer
// that gossip holds dead is no broken link, so it is not in the row.
func linkRow(self string, members []membership.Member, peers []string, pings map[string]ping) []api.Link {
	row := []api.Link{}
	for _, m := range members {
		if m.State.Gone() || !slices.Contains(peers, m.Name) {
			continue
		}
		l := api.Link{From: self, To: m.Name, UDP: linkUnknown, TCP: linkUnknown}
		p, called := pings[m.Name]
		switch {
		case called && p.ok:
			l.TCP, l.RTT = linkOK, p.ms
		case called:
			l.TCP = linkDown
		}
		switch {
		case m.Path == membership.PathUDP:
			l.UDP = linkOK
		case m.Path == membership.PathTCP:
			l.UDP = linkFallback
		case l.TCP == linkDown: // no gossip link either
			l.UDP = linkDown
		}
		row = append(row, l)
	}
	return row
}

// matrixOf puts the rows of agents together and counts. rows has no entry for an agent that nobody could ask: all its
// links are unknown. A link that its agent does not tell of is unknown too, unless the cluster is so large that an
// agent measures a part only.
func matrixOf(agents []string, rows map[string][]api.Link) api.LinkMatrix {
	m := api.LinkMatrix{Agents: agents}
	tcp := make(map[[2]string]string)
	for _, from := range agents {
		row, told := rows[from]
		for _, to := range agents {
			if from == to {
				continue
			}
			i := slices.IndexFunc(row, func(l api.Link) bool { return l.To == to })
			l := api.Link{From: from, To: to, UDP: linkUnknown, TCP: linkUnknown}
			switch {
			case i >= 0:
				l = row[i]
			case told && len(agents)-1 > maxLinkPeers:
				continue
			}
			tcp[[2]string{from, to}] = l.TCP
			m.Links = append(m.Links, l)
		}
	}
	for _, l := range m.Links {
		if l.TCP == linkDown {
			m.Unreachable++
		}
		if l.UDP == linkFallback {
			m.UDPFallback++
		}
		if l.TCP == linkUnknown {
			m.Unknown++
		}
		if l.Via != "" {
			m.Relayed++
		}
		if l.TCP == linkOK && tcp[[2]string{l.To, l.From}] == linkDown {
			m.Asymmetric++
		}
	}
	return m
}

// matrixAgents is who takes part in a matrix: the live ones, core members first where there are too many.
func matrixAgents(members []membership.Member, core []string) []string {
	var agents []string
	for _, m := range members {
		if !m.State.Gone() {
			agents = append(agents, m.Name)
		}
	}
	slices.SortFunc(agents, func(a, b string) int {
		return cmp.Or(-compareBool(slices.Contains(core, a), slices.Contains(core, b)), cmp.Compare(a, b))
	})
	agents = agents[:min(len(agents), maxMatrix)]
	slices.Sort(agents)
	return agents
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// checkRow takes from an answer only what it may say: links of the agent that was asked, in our words.
func checkRow(from string, row []api.Link) []api.Link {
	var good []api.Link
	for _, l := range row {
		udp := slices.Contains([]string{linkOK, linkFallback, linkDown, linkUnknown}, l.UDP)
		tcp := slices.Contains([]string{linkOK, linkDown, linkUnknown}, l.TCP)
		if l.From == from && udp && tcp && len(l.Via) <= maxViaName && len(good) < maxMatrix+maxLinkPeers {
			good = append(good, l)
		}
	}
	return good
}

// fallbackRatio is the share of links whose gossip goes by TCP, of those of which one can tell. Without any there is
// no figure.
func fallbackRatio(row []api.Link) (float64, bool) {
	known, fallback := 0, 0
	for _, l := range row {
		if l.UDP == linkOK || l.UDP == linkFallback {
			known++
		}
		if l.UDP == linkFallback {
			fallback++
		}
	}
	if known == 0 {
		return 0, len(row) == 0 // alone, nothing falls back
	}
	return float64(fallback) / float64(known), true
}

// unreachable counts the links by which no call gets through.
func unreachable(row []api.Link) int { return len(unreachableNames(row)) }

// unreachableNames are whom these links lead to, never nil.
func unreachableNames(row []api.Link) []string {
	names := []string{}
	for _, l := range row {
		if l.TCP == linkDown {
			names = append(names, l.To)
		}
	}
	return names
}
