package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/membership"
)

// knownFile keeps the members last seen, so that an agent whose cluster is down finds it again.
const knownFile = "members.json"

// maxKnown bounds the file and the list of seeds.
const maxKnown = 1024

// knownMember is one line of members.json.
type knownMember struct {
	Node string `json:"node"`
	Addr string `json:"addr"`
	Core bool   `json:"core,omitempty"`
}

// coreNodes lists the core members, those that gossip holds alive first; never this agent.
func (b *book) coreNodes() []string {
	var live, rest []string
	states := make(map[string]membership.State)
	for _, m := range b.members() {
		states[m.Name] = m.State
	}
	for _, c := range b.view().Core() {
		switch {
		case c.Node == b.self || slices.Contains(live, c.Node) || slices.Contains(rest, c.Node):
		case states[c.Node] == membership.StateAlive:
			live = append(live, c.Node)
		default:
			rest = append(rest, c.Node)
		}
	}
	return append(live, rest...)
}

// witnesses lists agents that know the replicated state, the core members that this agent knows first:
// those may all have been replaced since, so a few others that gossip holds alive come after them.
func (b *book) witnesses() []string {
	nodes := b.coreNodes()
	for _, node := range b.live() {
		if len(nodes) < maxWitnesses && !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	return nodes[:min(len(nodes), maxWitnesses)]
}

// live lists the agents that gossip holds alive, never this one.
func (b *book) live() []string {
	var live []string
	for _, m := range b.members() {
		if m.Name != b.self && m.State == membership.StateAlive {
			live = append(live, m.Name)
		}
	}
	return live
}

// coreSources lists the nodes to ask for what only the core may say: a host that has begun an epoch which this agent has
// only a proof of, else the core members of the replicated state, or, before there is one, those that the core itself named when this agent joined.
func (b *book) coreSources() []string {
	if founding := b.founding(); len(founding) > 0 {
		return []string{founding[len(founding)-1].Node} // those that the View names are of a core that was
	}
	if nodes := b.coreNodes(); len(nodes) > 0 {
		return nodes
	}
	var core []string
	for _, k := range b.known {
		if k.Core && k.Node != b.self {
			core = append(core, k.Node)
		}
	}
	return core
}

// snapshotKnown lists the members as they should be found at the next start: those of gossip, and
// those known before that gossip has not met.
func (b *book) snapshotKnown() []knownMember {
	core := make(map[string]bool)
	for _, c := range b.view().Core() {
		core[c.Node] = true
	}
	var out []knownMember
	seen := map[string]bool{b.self: true}
	for _, m := range b.members() {
		if seen[m.Name] || m.State == membership.StateLeft || !m.Addr.IsValid() {
			continue
		}
		seen[m.Name] = true
		out = append(out, knownMember{Node: m.Name, Addr: m.Addr.String(), Core: core[m.Name]})
	}
	for _, k := range b.known {
		if !seen[k.Node] {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b knownMember) int { return strings.Compare(a.Node, b.Node) })
	return out[:min(len(out), maxKnown)]
}

func (d *dataDir) readKnown() ([]knownMember, error) {
	raw, err := os.ReadFile(d.join(viewDir, knownFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", knownFile, err)
	}
	var known []knownMember
	if err := json.Unmarshal(raw, &known); err != nil {
		// Only a hint for finding peers: a damaged file must not keep the agent down.
		return nil, nil
	}
	return known, nil
}

func (d *dataDir) writeKnown(known []knownMember) error {
	raw, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	return d.writeView(knownFile, append(raw, '\n'))
}

// writeView writes a file of what this agent knows of the cluster.
func (d *dataDir) writeView(name string, data []byte) error {
	if err := os.MkdirAll(d.join(viewDir), 0o700); err != nil {
		return fmt.Errorf("create %s: %w", viewDir, err)
	}
	return d.write(viewDir+"/"+name, data)
}
