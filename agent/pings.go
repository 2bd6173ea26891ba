package agent

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodPing     = "net.ping"
	methodLinks    = "net.links"
	methodLinksVia = "net.links.via"

	pingEvery   = 5 * time.Second
	pingTimeout = 2 * time.Second
	linksAtOnce = 8       // calls under way, of pings as of rows
	maxLinkBody = 1 << 16 // an encoded row
	maxViaName  = 63      // the name of the agent to ask in turn
)

// linkTable is what the last round of pings found, nil before the first.
type linkTable struct {
	pings atomic.Pointer[map[string]ping]
}

// watchLinks calls every peer now and then, to know whether calls get through.
func (a *Agent) watchLinks(ctx context.Context) error {
	ticker := newBeat(pingEvery)
	defer ticker.stop()
	for {
		pings := a.pingAll(ctx, linkPeers(a.ids.Node, a.memberList(), a.coreNames()))
		if ctx.Err() != nil {
			return nil
		}
		a.links.pings.Store(&pings)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			ticker.again()
		}
	}
}

func (a *Agent) pingAll(ctx context.Context, peers []string) map[string]ping {
	var mu sync.Mutex
	pings := make(map[string]ping, len(peers))
	eachOf(peers, linksAtOnce, func(node string) {
		p := a.ping(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		pings[node] = p
	})
	return pings
}

func (a *Agent) ping(ctx context.Context, node string) ping {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	began := clock.Boottime()
	answer, err := a.pool.Call(ctx, node, methodPing, nil)
	p := ping{ok: err == nil, ms: float64((clock.Boottime() - began).Microseconds()) / 1000}
	if len(answer) == 1 {
		p.safe = int(min(answer[0], safeAdmin))
	}
	return p
}

// eachOf calls f for all names, so many at once, and returns when all are done.
func eachOf(names []string, atOnce int, f func(string)) {
	var running sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, name := range names {
		places <- struct{}{}
		running.Go(func() {
			f(name)
			<-places
		})
	}
	running.Wait()
}

// ownLinks is this agent's row of the matrix.
func (a *Agent) ownLinks() []api.Link {
	var pings map[string]ping
	if last := a.links.pings.Load(); last != nil {
		pings = *last
	}
	members := a.memberList()
	row := linkRow(a.ids.Node, members, linkPeers(a.ids.Node, members, a.coreNames()), pings)
	relays := a.core.relays()
	for i := range row {
		row[i].Via = relays[row[i].To]
	}
	return row
}

// linkMatrix gathers the rows of all live agents.
func (a *Agent) linkMatrix(ctx context.Context) (api.LinkMatrix, error) {
	agents := matrixAgents(a.memberList(), a.coreNames())
	rows := a.askRows(ctx, agents, func(ctx context.Context, node string) ([]api.Link, error) {
		return a.askLinks(ctx, node, methodLinks, nil, node)
	})
	rows[a.ids.Node] = a.ownLinks()
	var missing []string
	for _, node := range agents {
		if _, told := rows[node]; !told {
			missing = append(missing, node)
		}
	}
	around := a.askRows(ctx, missing, func(ctx context.Context, node string) ([]api.Link, error) {
		relay := relayTo(node, a.ids.Node, rows)
		if relay == "" {
			return nil, api.Errorf(api.CodeUnavailable, "no agent reaches %s", node)
		}
		return a.askLinks(ctx, relay, methodLinksVia, []byte(node), node)
	})
	for node, row := range around {
		rows[node] = row
	}
	return matrixOf(agents, rows), ctx.Err()
}

// relayTo picks an agent that answered us and reaches node.
func relayTo(node, self string, rows map[string][]api.Link) string {
	var relays []string
	for name, row := range rows {
		reaches := slices.ContainsFunc(row, func(l api.Link) bool { return l.To == node && l.TCP == linkOK })
		if name != self && reaches {
			relays = append(relays, name)
		}
	}
	if len(relays) == 0 {
		return ""
	}
	return slices.Min(relays)
}

// askRows asks for the rows of nodes; those that did not answer are not in the result.
func (a *Agent) askRows(ctx context.Context, nodes []string, ask func(context.Context, string) ([]api.Link, error)) map[string][]api.Link {
	var mu sync.Mutex
	rows := make(map[string][]api.Link, len(nodes))
	eachOf(nodes, linksAtOnce, func(node string) {
		if node == a.ids.Node {
			return
		}
		row, err := ask(ctx, node)
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		rows[node] = row
	})
	return rows
}

// askLinks asks node for the row of an agent.
func (a *Agent) askLinks(ctx context.Context, node, method string, body []byte, of string) ([]api.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	raw, err := a.pool.Call(ctx, node, method, body)
	if err != nil {
		return nil, err
	}
	var row []api.Link
	if len(raw) > maxLinkBody {
		return nil, api.Errorf(api.CodeInternal, "the links of %s take %d bytes", of, len(raw))
	}
	if err := json.Unmarshal(raw, &row); err != nil {
		return nil, err
	}
	return checkRow(of, row), nil
}

// servePing shows that calls get through, and in which safe mode this agent is.
func (a *Agent) servePing(context.Context, transport.Peer, []byte) ([]byte, error) {
	return []byte{byte(a.safe.level())}, nil //nolint:gosec // 0 to 3
}

// serveLinks tells any agent how this one reaches the others.
func (a *Agent) serveLinks(context.Context, transport.Peer, []byte) ([]byte, error) {
	return json.Marshal(a.ownLinks())
}

// serveLinksVia asks another agent for its row, for one that cannot reach it. What it asks is net.links, which asks
// nobody, so there is no loop.
func (a *Agent) serveLinksVia(ctx context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	node := string(body)
	if _, known := a.hub.View().Node(node); !known || len(body) > maxViaName || node == a.ids.Node {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "links are asked for by the name of another agent"}
	}
	row, err := a.askLinks(ctx, node, methodLinks, nil, node)
	if err != nil {
		return nil, err
	}
	return json.Marshal(row)
}

// udpFallbackRatio and unreachableLinks are about this agent's own row. There is no figure before the first round.
func (a *Agent) udpFallbackRatio() (float64, bool) {
	if a.links.pings.Load() == nil {
		return 0, false
	}
	return fallbackRatio(a.ownLinks())
}

// unreachableAgents are the names behind unreachableLinks.
func (a *Agent) unreachableAgents() []string {
	if a.links.pings.Load() == nil {
		return nil
	}
	return unreachableNames(a.ownLinks())
}

func (a *Agent) unreachableLinks() (float64, bool) {
	return float64(unreachable(a.ownLinks())), a.links.pings.Load() != nil
}
