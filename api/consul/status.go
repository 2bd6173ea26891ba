package consul

import (
	"slices"

	"github.com/parley-mesh/parley/api"
)

// statusLeader answers the leader's mesh address as "ip:port", "" while there is no leader.
func (d *dialect) statusLeader(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	local := x.Service().Local()
	readHeaders(x, local.Hub.View().KVRevision())
	leader := ""
	if core := local.Core(); core.Leader != nil {
		leader = addresses(local.Members())[*core.Leader]
	}
	return writeJSON(x, leader)
}

// statusPeers answers the voters' addresses.
func (d *dialect) statusPeers(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return refuse(x, err)
	}
	local := x.Service().Local()
	readHeaders(x, local.Hub.View().KVRevision())
	byName := addresses(local.Members())
	peers := []string{}
	for _, voter := range local.Core().Voters {
		if address := byName[voter.Name]; address != "" {
			peers = append(peers, address)
		}
	}
	slices.Sort(peers)
	return writeJSON(x, peers)
}

func addresses(members []api.Member) map[string]string {
	byName := make(map[string]string, len(members))
	for _, m := range members {
		byName[m.Name] = m.Address
	}
	return byName
}
