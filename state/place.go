package state

import "fmt"

// NodePlace records where a node is, in its own words: the mesh address by which the others reach it, and its
// zone. An agent sends it for itself when its row says something else, as after a move.
type NodePlace struct {
	Node    string
	Zone    string
	Address string
}

func (NodePlace) kind() kind { return kindNodePlace }

func (c NodePlace) append(b []byte) []byte {
	return appendString(appendString(appendString(b, c.Node), c.Zone), c.Address)
}

func readNodePlace(r *reader) Command {
	return NodePlace{
		Node:    r.string(MaxNameBytes, "node name"),
		Zone:    r.string(MaxZoneBytes, "zone"),
		Address: r.string(MaxAddressBytes, "address"),
	}
}

func (c NodePlace) check() error {
	switch {
	case len(c.Zone) > MaxZoneBytes:
		return fmt.Errorf("the zone has %d bytes: the limit is %d", len(c.Zone), MaxZoneBytes)
	case len(c.Address) > MaxAddressBytes:
		return fmt.Errorf("the address has %d bytes: the limit is %d", len(c.Address), MaxAddressBytes)
	}
	return CheckNodeName(c.Node)
}

func (c NodePlace) apply(a *applying) Result {
	return a.editNode(c.Node, func(n *Node) { n.Zone, n.Address = c.Zone, c.Address })
}
