package consul

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/parley-mesh/parley/api"
)

// Version is the version of the dialect: what programs that ask are told. Their behavior depends on it.
const Version = "1.16.2"

// member is one agent as gossip shows it.
type member struct {
	Name        string
	Addr        string
	Port        uint16
	Tags        map[string]string
	Status      int
	ProtocolMin uint8
	ProtocolMax uint8
	ProtocolCur uint8
	DelegateMin uint8
	DelegateMax uint8
	DelegateCur uint8
}

// The numbers that clients know for the states of a member.
const (
	memberAlive  = 1
	memberLeft   = 3
	memberFailed = 4
)

// selfConfig is the part of the configuration that clients read.
type selfConfig struct {
	Datacenter        string
	PrimaryDatacenter string
	NodeName          string
	NodeID            string
	Revision          string
	Server            bool // a member of the core
	Version           string
	BuildDate         string
}

type self struct {
	Config      selfConfig
	DebugConfig struct{}
	Coord       *struct{}
	Member      member
	Stats       map[string]map[string]string
	Meta        map[string]string
}

// agentSelf describes this agent.
func (d *dialect) agentSelf(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	local := x.Service().Local()
	view, r := local.Hub.View(), d.roster(x)
	r.look()
	answer := self{Stats: d.stats(local), Meta: map[string]string{}}
	for _, m := range local.Members() {
		if m.Name == local.Node {
			answer.Member = d.member(m)
			answer.Config.Server = inCore(m)
		}
	}
	answer.Config.Datacenter, answer.Config.PrimaryDatacenter = d.datacenter, d.datacenter
	answer.Config.NodeName, answer.Config.Version = local.Node, Version
	if row, ok := view.Node(local.Node); ok {
		n := d.node(r, view, row)
		answer.Config.NodeID, answer.Meta = n.ID, n.Meta
	}
	readHeaders(x, 1)
	return writeJSON(x, answer)
}

// stats are texts, as clients know them; only what has a meaning here is there.
func (d *dialect) stats(local api.Local) map[string]map[string]string {
	core := local.Core()
	leader := ""
	if core.Leader != nil {
		leader = addresses(local.Members())[*core.Leader]
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return map[string]map[string]string{
		"consul": {
			"leader":      strconv.FormatBool(core.Leader != nil && *core.Leader == local.Node),
			"leader_addr": leader,
		},
		"raft": {
			"applied_index": number(core.AppliedIndex), "commit_index": number(core.CommitIndex),
			"term": number(core.Term), "num_peers": strconv.Itoa(max(len(core.Voters)-1, 0)),
		},
	}
}

// agentMembers lists whom gossip knows. ?wan lists the servers as if there were several datacenters.
func (d *dialect) agentMembers(x *api.Exchange) error {
	if err := cmp.Or(d.checkDatacenter(x), refuseFilter(x)); err != nil {
		return refuse(x, err)
	}
	wide := x.Query().Has("wan") && x.Query().Get("wan") != "0" && x.Query().Get("wan") != "false"
	members := []member{}
	for _, m := range x.Service().Local().Members() {
		shown := d.member(m)
		if wide {
			if !inCore(m) {
				continue
			}
			shown.Name += "." + d.datacenter
		}
		members = append(members, shown)
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.Name, b.Name) })
	readHeaders(x, 1)
	return writeJSON(x, members)
}

func (d *dialect) member(m api.Member) member {
	out := member{
		Name: m.Name, Status: memberFailed,
		Tags:        map[string]string{"dc": d.datacenter, "role": "node", "segment": "", "build": Version + ":", "acls": "0"},
		ProtocolMin: 1, ProtocolMax: 5, ProtocolCur: 2, DelegateMin: 2, DelegateMax: 5, DelegateCur: 4,
	}
	if addr, err := netip.ParseAddrPort(m.Address); err == nil {
		out.Addr, out.Port = addr.Addr().String(), addr.Port()
	}
	if inCore(m) {
		out.Tags["role"] = "consul"
		out.Tags["port"] = strconv.Itoa(int(out.Port))
	}
	switch {
	case alive(m):
		out.Status = memberAlive
	case m.State == stateLeft:
		out.Status = memberLeft
	}
	return out
}

func inCore(m api.Member) bool { return m.Core == "leader" || m.Core == "voter" }
