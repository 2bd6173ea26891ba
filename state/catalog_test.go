package state

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// fullRegister has every field set, so that an encoding that leaves one out is found.
func fullRegister() CatalogRegister {
	return CatalogRegister{
		Name: "x1",
		Node: &CatalogNode{
			Name: "x1", ID: "e0155642-135d-4739-9853-a1ee6c9f945b", Address: "10.0.0.1",
			TaggedAddresses: []Pair{{"lan", "10.0.0.1"}}, Meta: []Pair{{"k", "v"}},
		},
		Keep: true,
		Service: &CatalogService{
			Node: "x1", ID: "s", Name: "web", Tags: []string{"a"}, Address: "10.0.0.2", Port: 80, SocketPath: "/s",
			TaggedAddresses: []TaggedAddress{{"lan", "10.0.0.3", 81}}, Meta: []Pair{{"k", "v"}},
			PassingWeight: 1, WarningWeight: 2, EnableTagOverride: true,
		},
		Checks: []CatalogCheck{{
			Node: "x1", ID: "c", Name: "n", Status: CheckWarning, Notes: "m", Output: "o\n", ServiceID: "s", Type: "tcp",
			Definition: []byte("{}"),
		}},
	}
}

func fullTxn() Txn {
	c := fullRegister()
	return Txn{Then: []Op{
		{Kind: OpNodeSet, Node: c.Node, Compare: ptr(0)}, {Kind: OpServiceSet, Service: c.Service}, {Kind: OpCheckSet, Check: &c.Checks[0]},
		{Kind: OpNodeGet, Node: &CatalogNode{Name: "x1"}}, {Kind: OpServiceGet, Service: &CatalogService{Node: "x1", ID: "s"}},
		{Kind: OpCheckGet, Check: &CatalogCheck{Node: "x1", ID: "c"}}, {Kind: OpCheckDelete, Check: &CatalogCheck{Node: "x1", ID: "c"}},
		{Kind: OpServiceDelete, Service: &CatalogService{Node: "x1", ID: "s"}}, {Kind: OpNodeDelete, Node: &CatalogNode{Name: "x1"}}, {Kind: OpSessionDestroy, Session: testSession(1).ID.String()},
	}}
}

func readCatalogOf(v *View, key string) {
	v.CatalogNodes()
	v.Services(func(s CatalogService) bool { v.Instances(s.Name); return true })
	v.Checks(func(CatalogCheck) bool { return true })
	v.ServicesOf(key)
	v.ChecksOf(key)
	v.ServiceRevision(key)
	v.CatalogRevision(key)
	name, _, _ := strings.Cut(key, catalogSeparator)
	v.Instances(name)
	v.s.scan(TableCatalogIndex, "", "", func(r *record) bool {
		if r.key != "" {
			v.s.trace(r.key)
		}
		return true
	})
}

// A full registration comes out of the log, of a snapshot and of a transaction as it went in.
func TestCatalogRoundTrip(t *testing.T) {
	want := fullRegister()
	e, err := Decode(encode(t, want))
	if err != nil || !reflect.DeepEqual(e.Command, want) {
		t.Fatalf("got %+v, %v", e.Command, err)
	}
	e, err = Decode(encode(t, fullTxn()))
	if err != nil || !reflect.DeepEqual(e.Command.(Txn).Then, fullTxn().Then) {
		t.Fatalf("got %+v, %v", e.Command, err)
	}
	m := testGenesis()
	do(t, m, want, CodeOK)
	restored := NewMachine()
	if err := restored.Restore(bytes.NewReader(snapshotOf(t, m.View(), AllClasses))); err != nil {
		t.Fatal(err)
	}
	res := do(t, restored, Txn{Then: fullTxn().Then[3:6]}, CodeOK)
	a, err := DecodeTxnAnswer(res.Body)
	if err != nil || len(a.Results) != 3 {
		t.Fatalf("answer %+v, %v", a, err)
	}
	node, service, check := *want.Node, *want.Service, want.Checks[0]
	node.Owner, node.CreateRevision, node.ModRevision = "uid:0@a1", 2, 2
	service.Owner, service.CreateRevision, service.ModRevision = "uid:0@a1", 2, 2
	check.Owner, check.CreateRevision, check.ModRevision = "uid:0@a1", 2, 2
	check.ServiceName, check.ServiceTags = "web", []string{"a"}
	if !reflect.DeepEqual(*a.Results[0].Node, node) || !reflect.DeepEqual(*a.Results[1].Service, service) ||
		!reflect.DeepEqual(*a.Results[2].Check, check) {
		t.Errorf("got %+v %+v %+v", a.Results[0].Node, a.Results[1].Service, a.Results[2].Check)
	}
}

// After every entry: an instance is found by its name and no other way, the index rows count what
// there is, checks hang on services that exist, no session relies on a check that is critical or gone,
// and no node has both an agent and a row of its own here.
func TestCatalogAgrees(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		for i, commands := range rapid.SliceOfN(genCatalogEntry, 5, 30).Draw(rt, "entries") {
			apply(t, m, stampAt(i*1000), commands...)
			checkHolds(rt, m.View())
			checkCatalog(rt, m.View())
			checkReliance(rt, m.View())
		}
	})
}

func checkCatalog(t *rapid.T, v *View) {
	counts := map[string]trace{}
	count := func(key string, services, checks int) {
		counts[key] = trace{counts[key].services + services, counts[key].checks + checks}
	}
	v.Services(func(s CatalogService) bool {
		count(nodeTrace(s.Node), 1, 0)
		count(serviceTrace(s.Name), 1, 0)
		if !strings.Contains(fmt.Sprint(v.Instances(s.Name)), fmt.Sprint(s)) {
			t.Fatalf("%+v is not found by its name", s)
		}
		return true
	})
	if v.Rows(TableService) != v.Rows(TableServiceName) {
		t.Fatalf("%d instances, %d names", v.Rows(TableService), v.Rows(TableServiceName))
	}
	v.Checks(func(c CatalogCheck) bool {
		count(nodeTrace(c.Node), 0, 1)
		if _, ok := v.Service(c.Node, c.ServiceID); c.ServiceID != "" && !ok {
			t.Fatalf("%+v checks nothing", c)
		}
		return true
	})
	v.s.scan(TableCatalogIndex, "", "", func(r *record) bool {
		if got := v.s.trace(r.key); got != counts[r.key] {
			t.Fatalf("index row %q counts %+v, there are %+v", r.key, got, counts[r.key])
		}
		delete(counts, r.key)
		return true
	})
	if len(counts) > 0 {
		t.Fatalf("no index rows for %v", counts)
	}
	for _, n := range v.CatalogNodes() {
		if _, ok := v.Node(n.Name); ok {
			t.Fatalf("node %s has an agent", n.Name)
		}
	}
}

func checkReliance(t *rapid.T, v *View) {
	rows := 0
	for _, s := range v.Sessions() {
		names := map[string]bool{"": true}
		for _, name := range s.NodeChecks {
			names[name] = true
			_, hasAgent := v.Node(s.Node)
			if name == AgentCheck && hasAgent {
				continue
			}
			if c, ok := v.s.check(s.Node, name); !ok || c.Status == CheckCritical {
				t.Fatalf("session %s relies on %q of %s, which is %+v", s.ID, name, s.Node, c)
			}
		}
		for name := range names {
			rows++
			if _, ok := v.s.get(TableSessionCheck, sessionCheckPrefix(s.Node, name)+sessionKey(s.ID)); !ok {
				t.Fatalf("session %s is not found by check %q", s.ID, name)
			}
		}
	}
	if got := v.Rows(TableSessionCheck); got != rows {
		t.Fatalf("%d rows of who relies on what, want %d", got, rows)
	}
}

// What a reader of a name is told never goes back, and is at least the revision of all that is shown
// under the name; it stays when only something else changes.
func TestCatalogRevisions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := testGenesis()
		told := map[string]uint64{}
		for i, commands := range rapid.SliceOfN(genCatalogEntry, 5, 25).Draw(rt, "entries") {
			before := m.View()
			apply(t, m, stampAt(i*1000), commands...)
			for _, name := range []string{"web", "db"} {
				was, is := shownOf(before, name), shownOf(m.View(), name)
				got := m.View().ServiceRevision(name)
				if got < told[name] || was != is && got == told[name] {
					rt.Fatalf("service %s: told %d after %d\n%s\n%s", name, got, told[name], was, is)
				}
				told[name] = got
			}
			for _, node := range []string{"a1", "a2", "x1", "x2"} {
				was := fmt.Sprint(before.s.catalogNode(node)) + fmt.Sprint(before.ServicesOf(node), before.ChecksOf(node))
				is := fmt.Sprint(m.View().s.catalogNode(node)) + fmt.Sprint(m.View().ServicesOf(node), m.View().ChecksOf(node))
				got := m.View().CatalogRevision(node)
				if got < told[node] || (was != is) && got == told[node] {
					rt.Fatalf("node %s: told %d after %d\n%s\n%s", node, got, told[node], was, is)
				}
				told[node] = got
			}
		}
	})
}

// shownOf is what a reader of a service is shown: instances, their nodes and checks.
func shownOf(v *View, name string) string {
	var out strings.Builder
	for _, s := range v.Instances(name) {
		n, _ := v.CatalogNode(s.Node)
		fmt.Fprint(&out, s, n)
		for _, c := range v.ChecksOf(s.Node) {
			if c.ServiceID == "" || c.ServiceID == s.ID {
				fmt.Fprint(&out, c)
			}
		}
	}
	return out.String()
}
