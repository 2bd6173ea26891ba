package state

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// What could never be in the catalog is refused before it reaches the log; the largest of all that can
// goes in and comes out of a snapshot.
func TestCatalogChecks(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	pairs := func(n, key, value int) (out []Pair) {
		for i := range n {
			out = append(out, Pair{fmt.Sprintf("%0*d", key, i), long(value)})
		}
		return out
	}
	for name, change := range map[string]func(*CatalogRegister){
		"bad node":             func(c *CatalogRegister) { c.Name = "X" },
		"other node":           func(c *CatalogRegister) { c.Node.Name = "x2" },
		"node id":              func(c *CatalogRegister) { c.Node.ID = strings.ToUpper(c.Node.ID) },
		"no address":           func(c *CatalogRegister) { c.Node.Address = "" },
		"node past":            func(c *CatalogRegister) { c.Node.ModRevision = 1 },
		"node meta":            func(c *CatalogRegister) { c.Node.Meta = pairs(MaxMetaPairs+1, 3, 1) },
		"meta unsorted":        func(c *CatalogRegister) { c.Node.Meta = []Pair{{"b", ""}, {"a", ""}} },
		"meta twice":           func(c *CatalogRegister) { c.Node.Meta = []Pair{{"a", ""}, {"a", ""}} },
		"meta key":             func(c *CatalogRegister) { c.Node.Meta = pairs(1, MaxMetaKeyBytes+1, 1) },
		"meta value":           func(c *CatalogRegister) { c.Node.Meta = pairs(1, 1, MaxMetaValueBytes+1) },
		"service elsewhere":    func(c *CatalogRegister) { c.Service.Node = "x2" },
		"service id":           func(c *CatalogRegister) { c.Service.ID = "" },
		"long service id":      func(c *CatalogRegister) { c.Service.ID = long(MaxServiceNameBytes + 1) },
		"service name":         func(c *CatalogRegister) { c.Service.Name = "a\x00b" },
		"long service name":    func(c *CatalogRegister) { c.Service.Name = long(MaxServiceNameBytes + 1) },
		"tags":                 func(c *CatalogRegister) { c.Service.Tags = make([]string, MaxTags+1) },
		"long tag":             func(c *CatalogRegister) { c.Service.Tags = []string{long(MaxServiceNameBytes + 1)} },
		"port":                 func(c *CatalogRegister) { c.Service.Port = 65536 },
		"weight":               func(c *CatalogRegister) { c.Service.WarningWeight = MaxWeight + 1 },
		"service meta":         func(c *CatalogRegister) { c.Service.Meta = pairs(MaxMetaPairs+1, 3, 1) },
		"tagged addresses":     func(c *CatalogRegister) { c.Service.TaggedAddresses = make([]TaggedAddress, MaxTaggedAddresses+1) },
		"tagged port":          func(c *CatalogRegister) { c.Service.TaggedAddresses[0].Port = -1 },
		"service past":         func(c *CatalogRegister) { c.Service.Owner = "somebody" },
		"check elsewhere":      func(c *CatalogRegister) { c.Checks[0].Node = "x2" },
		"check id":             func(c *CatalogRegister) { c.Checks[0].ID = "" },
		"status":               func(c *CatalogRegister) { c.Checks[0].Status = "fine" },
		"output":               func(c *CatalogRegister) { c.Checks[0].Output = long(MaxOutputBytes + 1) },
		"notes":                func(c *CatalogRegister) { c.Checks[0].Notes = long(MaxNotesBytes + 1) },
		"definition":           func(c *CatalogRegister) { c.Checks[0].Definition = []byte(long(MaxDefinitionBytes + 1)) },
		"check past":           func(c *CatalogRegister) { c.Checks[0].CreateRevision = 1 },
		"check with a service": func(c *CatalogRegister) { c.Checks[0].ServiceName = "web" },
		"checks":               func(c *CatalogRegister) { c.Checks = make([]CatalogCheck, MaxRegisterChecks+1) },
	} {
		c := fullRegister()
		change(&c)
		if _, err := Encode(Envelope{Command: c}, Version); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	c := fullRegister()
	for _, cmd := range []Command{
		CatalogDeregister{Node: "x1", Service: "s", Check: "c"}, CatalogDeregister{},
		Txn{Then: []Op{{Kind: OpNodeGet}}}, Txn{Then: []Op{{Kind: OpNodeSet, Service: c.Service}}},
		Txn{Then: []Op{{Kind: OpCheckGet, Check: &CatalogCheck{Node: "x1"}}}}, Txn{Then: []Op{{Kind: OpSessionDestroy, Session: "s"}}},
	} {
		if _, err := Encode(Envelope{Command: cmd}, Version); err == nil {
			t.Errorf("encoded %+v", cmd)
		}
	}

	largest := fullRegister()
	largest.Service.ID, largest.Service.Name = long(MaxServiceNameBytes), long(MaxServiceNameBytes)
	largest.Name = long(MaxNameBytes)
	largest.Node.Name, largest.Service.Node = largest.Name, largest.Name
	largest.Node.Meta, largest.Service.Meta = pairs(MaxMetaPairs, MaxMetaKeyBytes, MaxMetaValueBytes), pairs(MaxMetaPairs, MaxMetaKeyBytes, MaxMetaValueBytes)
	for range MaxTags - 1 {
		largest.Service.Tags = append(largest.Service.Tags, long(MaxServiceNameBytes))
	}
	largest.Checks = nil
	for i := range 60 { // more checks of this size are more than a command may have
		largest.Checks = append(largest.Checks, CatalogCheck{
			Node: largest.Name, ID: fmt.Sprintf("%0*d", MaxCheckNameBytes, i), Status: CheckPassing, ServiceID: largest.Service.ID,
			Notes: long(MaxNotesBytes), Output: long(MaxOutputBytes), Definition: []byte(long(MaxDefinitionBytes)),
		})
	}
	m := testGenesis()
	do(t, m, largest, CodeOK)
	if err := NewMachine().Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
}

// Nodes, instances and checks are bounded, all together and on one node. What is at its limit can still
// be changed, and what goes makes room.
func TestCatalogLimits(t *testing.T) {
	m := testGenesis()
	node := func(name string) CatalogRegister {
		return CatalogRegister{Name: name, Node: &CatalogNode{Name: name, Address: "10.0.0.1"}}
	}
	service := func(node, id string, port int) CatalogRegister {
		return CatalogRegister{Name: node, Service: &CatalogService{Node: node, ID: id, Name: "web", Port: port}}
	}
	check := func(node, id string, status CheckStatus) CatalogRegister {
		return CatalogRegister{Name: node, Checks: []CatalogCheck{{Node: node, ID: id, Status: status}}}
	}
	do(t, m, node("x1"), CodeOK)
	do(t, m, service("x1", "s", 1), CodeOK)
	do(t, m, check("x1", "c", CheckPassing), CodeOK)

	for _, limit := range []struct {
		table           Table
		most            int
		more, change    CatalogRegister
		away            CatalogDeregister
		onNode          trace
		full, elsewhere CatalogRegister
	}{
		{TableCatalogNode, MaxCatalogNodes, node("x9"), CatalogRegister{Name: "x1", Node: &CatalogNode{Name: "x1", Address: "10.0.0.2"}},
			CatalogDeregister{Node: "x9"}, trace{}, CatalogRegister{}, CatalogRegister{}},
		{TableService, MaxServices, service("x1", "t", 1), service("x1", "s", 2), CatalogDeregister{Node: "x1", Service: "s"},
			trace{services: MaxNodeServices}, service("x1", "u", 1), service("a1", "u", 1)},
		{TableCheck, MaxChecks, check("x1", "d", CheckPassing), check("x1", "c", CheckWarning), CatalogDeregister{Node: "x1", Check: "c"},
			trace{checks: MaxNodeChecks}, check("x1", "e", CheckPassing), check("a1", "e", CheckPassing)},
	} {
		there := m.s.tables[limit.table].rows
		m.s.tables[limit.table].rows = limit.most
		do(t, m, limit.more, CodeLimit)
		do(t, m, limit.change, CodeOK)
		do(t, m, limit.away, CodeOK)
		if limit.table != TableCatalogNode {
			do(t, m, limit.more, CodeOK)
		}
		m.s.tables[limit.table].rows = there
		if limit.onNode != (trace{}) {
			m.s.set(TableCatalogIndex, nodeTrace("x1"), 1, encodeTrace(limit.onNode))
			do(t, m, limit.full, CodeLimit)
			do(t, m, limit.elsewhere, CodeOK)
		}
	}
}

// Names that stand for nothing any more are forgotten, the oldest of them, when there are too many.
// What a reader of one is told jumps ahead and does not go back; names that stand for something stay.
func TestCatalogTracesAreBounded(t *testing.T) {
	m := testGenesis()
	m.s.at.Revision = 10 + MaxCatalogTraces
	for i := range MaxCatalogTraces {
		m.s.set(TableCatalogIndex, serviceTrace(fmt.Sprint("old-", i)), uint64(10+i), encodeTrace(trace{}))
	}
	m.s.set(TableCatalogIndex, serviceTrace("lives"), 11, encodeTrace(trace{services: 1}))
	m.view = nil
	before := m.View()
	f := NewFollower(ClassPublic)
	load(t, f, before)
	_, touched := apply(t, m, stampAt(1), CatalogRegister{Name: "a1", Service: &CatalogService{Node: "a1", ID: "s", Name: "new"}})
	v := m.View()
	if got := v.Rows(TableCatalogIndex); got > MaxCatalogTraces || got < MaxCatalogTraces-2*maxForgotten {
		t.Fatalf("%d rows left", got)
	}
	for _, name := range []string{"old-0", fmt.Sprint("old-", maxForgotten-10), fmt.Sprint("old-", MaxCatalogTraces-1), "lives", "never"} {
		if got, was := v.ServiceRevision(name), before.ServiceRevision(name); got < was {
			t.Errorf("%s went back from %d to %d", name, was, got)
		}
	}
	if v.ServiceRevision("lives") != 11 || v.ServiceRevision("new") != v.Revision() {
		t.Errorf("lives %d, new %d at %d", v.ServiceRevision("lives"), v.ServiceRevision("new"), v.Revision())
	}
	d := Delta{
		Index: v.Index(), Term: v.Term(), Stamp: v.Stamp(), Revision: v.Revision(), PrevRevision: before.Revision(), Changes: touched.Changes,
	}
	b, err := EncodeDelta(d)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = DecodeDelta(b); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(d); err != nil {
		t.Fatal(err)
	}
	if f.View().ClassDigest(ClassPublic) != v.ClassDigest(ClassPublic) {
		t.Error("the follower forgot other names")
	}
}
