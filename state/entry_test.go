package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func testEntry(name string) Entry {
	return Entry{Name: name, SPIFFEID: "spiffe://example.test/svc/" + name, Selectors: []string{"uid:1000"}}
}

// testEntryRow has every field set.
func testEntryRow() Entry {
	return Entry{
		Name: "web", SPIFFEID: "spiffe://example.test/svc/web", Selectors: []string{"uid:1000", "unit:web.service"}, Nodes: []string{"a1", "a2"},
		Service: "web", FederatesWith: []string{"other.test"}, TTLSeconds: 60, JWTTTLSeconds: 61, Hint: "h", Owner: "o",
		CreatedAt: 1, ChangedAt: 2, ChangedBy: "c", Generation: 3,
	}
}

// TestEntries: a name has one entry; the same once more changes nothing; only a replacement writes it anew; what was
// deleted is gone, and a follower outside the core has the same.
func TestEntries(t *testing.T) {
	m := testGenesis()
	do(t, m, EntryDelete{Name: "web"}, CodeNotFound)
	do(t, m, EntrySet{Entry: testEntry("web"), Replace: true}, CodeNotFound)
	first, err := DecodeEntry(do(t, m, EntrySet{Entry: testEntry("web")}, CodeOK).Body)
	if row, ok := m.View().Entry("web"); err != nil || !ok || !row.same(first) || first.Generation != 1 || first.CreatedAt == 0 || first.TTL() != 3600 {
		t.Fatalf("added %+v, %v; the row is %+v", first, err, row)
	}
	before := m.View().Revision()
	again := do(t, m, EntrySet{Entry: testEntry("web")}, CodeOK)
	if got, err := DecodeEntry(again.Body); err != nil || got.Generation != 1 || m.View().Revision() != before {
		t.Errorf("a retry: %+v, %v, revision %d after %d", got, err, m.View().Revision(), before)
	}
	other := testEntry("web")
	other.TTLSeconds, other.JWTTTLSeconds = 60, 30
	do(t, m, EntrySet{Entry: other}, CodeExists)
	do(t, m, EntrySet{Entry: other, Replace: true}, CodeOK)
	if row, _ := m.View().Entry("web"); row.Generation != 2 || row.TTL() != 60 || row.JWTTTL() != 30 || row.CreatedAt != first.CreatedAt || row.ChangedAt == first.ChangedAt {
		t.Errorf("replaced: %+v", row)
	}
	do(t, m, EntrySet{Entry: testEntry("db")}, CodeOK)
	do(t, m, EntryDelete{Name: "web"}, CodeOK)
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	for _, v := range []*View{m.View(), f.View()} {
		if all := v.Entries(); len(all) != 1 || all[0].Name != "db" {
			t.Errorf("entries: %+v", all)
		}
	}
	abroad := testEntry("x")
	abroad.SPIFFEID = "spiffe://other.test/svc/x"
	do(t, m, EntrySet{Entry: abroad}, CodeInvalid)
	own := testEntry("x")
	own.FederatesWith = []string{"example.test"}
	do(t, m, EntrySet{Entry: own}, CodeInvalid)
}

// TestEntriesAreBounded reaches the limit; a replacement at it still works, and a removal makes room.
func TestEntriesAreBounded(t *testing.T) {
	m := testGenesis()
	name := func(i int) string { return fmt.Sprintf("e%d", i) }
	for i := 0; i < MaxEntries; i += 1024 {
		commands := make([]Command, 0, 1024)
		for j := i; j < i+1024; j++ {
			commands = append(commands, EntrySet{Entry: testEntry(name(j))})
		}
		apply(t, m, stampAt(10+i), commands...)
	}
	if n := m.View().Rows(TableEntry); n != MaxEntries {
		t.Fatalf("%d entries", n)
	}
	do(t, m, EntrySet{Entry: testEntry(name(MaxEntries))}, CodeLimit)
	changed := testEntry(name(0))
	changed.Hint = "h"
	do(t, m, EntrySet{Entry: changed, Replace: true}, CodeOK)
	do(t, m, EntryDelete{Name: name(1)}, CodeOK)
	do(t, m, EntrySet{Entry: testEntry(name(MaxEntries))}, CodeOK)
}

// TestMalformedIDs: forty SPIFFE IDs that no program may have, and some that it may.
func TestMalformedIDs(t *testing.T) {
	bad := []string{
		"", "spiffe", "spiffe:", "spiffe:/", "spiffe://", "spiffe:///svc/web", "http://example.test/svc/web", "SPIFFE://example.test/svc/web",
		"spiffe://Example.test/svc/web", "spiffe://example.test:8443/svc/web", "spiffe://user@example.test/svc/web", "spiffe://exa mple.test/svc/web",
		"spiffe://example.test", "spiffe://example.test/", "spiffe://example.test//", "spiffe://example.test/svc/", "spiffe://example.test//svc",
		"spiffe://example.test/svc//web", "spiffe://example.test/.", "spiffe://example.test/..", "spiffe://example.test/svc/.", "spiffe://example.test/svc/..",
		"spiffe://example.test/../svc", "spiffe://example.test/svc/./web", "spiffe://example.test/svc/%77eb", "spiffe://example.test/svc/web?x=1",
		"spiffe://example.test/svc/web#f", "spiffe://example.test/svc/we b", "spiffe://example.test/svc/wéb", "spiffe://example.test/svc/web\x00",
		"spiffe://example.test/svc/web\n", "spiffe://example.test/svc:web", "spiffe://example.test/svc/*", "spiffe://[::1]/svc/web", "spiffe://exämple.test/svc",
		"spiffe://example.test\\svc", "spiffe://example.test/parley", "spiffe://example.test/parley/agent/a1", "spiffe://example.test/parley/operator/eve",
		"spiffe://example.test/" + strings.Repeat("a", MaxSPIFFEIDBytes), "spiffe://" + strings.Repeat("a", MaxTrustBytes+1) + "/svc", " spiffe://example.test/svc",
	}
	for _, id := range bad {
		if err := CheckWorkloadID(id); err == nil {
			t.Errorf("%q is accepted", id)
		}
		e := testEntry("x")
		if e.SPIFFEID = id; (EntrySet{Entry: e}).check() == nil {
			t.Errorf("an entry with %q is accepted", id)
		}
	}
	if len(bad) < 40 {
		t.Errorf("only %d IDs", len(bad))
	}
	longest := "spiffe://example.test/"
	for _, id := range []string{
		"spiffe://example.test/svc/web", "spiffe://e/a", "spiffe://1.2.3.4/a", "spiffe://a_b-c.d/A.b_c-D/...", "spiffe://example.test/parley2",
		longest + strings.Repeat("a", MaxSPIFFEIDBytes-len(longest)),
	} {
		if err := CheckWorkloadID(id); err != nil {
			t.Errorf("%.80q: %v", id, err)
		}
	}
}

// TestSelectors: an entry needs a boundary that the kernel keeps, and what could never be found is refused with the reason.
func TestSelectors(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for selectors, reason := range map[string]string{
		"": "no selector is a uid, unit or cgroup", "path:/usr/bin/web": "no selector is", "path:/x,sha256:" + hash: "no selector is", "gid:5": "no selector is",
		"group:27": "no selector is", "uid": "not a number", "uid:": "not a number", "uid:x": "not a number", "uid:-1": "not a number", "uid:01": "not a number",
		"uid:4294967296": "not a number", "uid:1,uid:2": "never both be true", "uid:2,uid:1": "not sorted", "uid:1,uid:1": "there twice", "color:red": "no known kind",
		"unit:web": "name of a unit", "unit:a/b.service": "name of a unit", "unit:a b.service": "name of a unit", "unit:": "name of a unit",
		"cgroup:system.slice": "path from the root", "cgroup:/a/../b": "path from the root", "path:x,uid:1": "path from the root", "invocation:01,unit:web.service": "32 digits",
		"invocation:" + hash[:32]: "no selector is a uid, unit or cgroup", "invocation:" + hash[:32] + ",invocation:" + strings.Repeat("0b", 16) + ",uid:1": "can never both be true", "sha256:00,uid:1": "not a SHA-256",
		"sha256:" + strings.ToUpper(hash) + ",uid:1": "not a SHA-256", "cgroup:/" + strings.Repeat("a", MaxSelectorBytes): "the limit is",
	} {
		list := strings.Split(selectors, ",")
		if selectors == "" {
			list = nil
		}
		if err := CheckSelectors(list); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%.60q: %v, want %q", selectors, err, reason)
		}
	}
	for _, list := range [][]string{{"uid:0"}, {"unit:web.service"}, {"cgroup:/"}, {"invocation:" + hash[:32], "unit:web.service"}, {"gid:1", "group:2", "group:3", "path:/x", "sha256:" + hash, "uid:4294967295"}} {
		if err := CheckSelectors(list); err != nil {
			t.Errorf("%v: %v", list, err)
		}
		if (Entry{Selectors: list}).Boundary() == "" {
			t.Errorf("%v: no boundary", list)
		}
	}
	many := make([]string, 0, MaxEntrySelectors+1)
	for i := range cap(many) {
		many = append(many, fmt.Sprintf("group:%d", 100+i))
	}
	if err := CheckSelectors(many); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("too many: %v", err)
	}
}

// TestEntryLimits refuses what else an entry must not carry.
func TestEntryLimits(t *testing.T) {
	for what, edit := range map[string]func(*Entry){
		"name": func(e *Entry) { e.Name = "-" }, "short": func(e *Entry) { e.TTLSeconds = MinEntryTTLSeconds - 1 },
		"long": func(e *Entry) { e.TTLSeconds = MaxEntryTTLSeconds + 1 }, "short token": func(e *Entry) { e.JWTTTLSeconds = 1 },
		"long token": func(e *Entry) { e.JWTTTLSeconds = MaxEntryJWTSeconds + 1 }, "hint": func(e *Entry) { e.Hint = strings.Repeat("h", MaxEntryHintBytes+1) },
		"owner": func(e *Entry) { e.Owner = "a\nb" }, "node": func(e *Entry) { e.Nodes = []string{"A"} }, "nodes": func(e *Entry) { e.Nodes = []string{"b", "a"} },
		"service": func(e *Entry) { e.Service = strings.Repeat("s", MaxServiceNameBytes+1) }, "federation": func(e *Entry) { e.FederatesWith = []string{"A"} },
		"federations": func(e *Entry) { e.FederatesWith = make([]string, MaxEntryFederates+1) },
	} {
		e := testEntry("x")
		edit(&e)
		if err := (EntrySet{Entry: e}).check(); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// TestEntryAllows: nodes and the registered service decide where an entry counts.
func TestEntryAllows(t *testing.T) {
	m := testGenesis()
	do(t, m, CatalogRegister{Name: "x1", Node: &CatalogNode{Name: "x1", Address: "10.0.0.1"}, Service: &CatalogService{Node: "x1", ID: "w", Name: "web"}}, CodeOK)
	v := m.View()
	e := testEntry("web")
	bound, registered := e, e
	bound.Nodes, registered.Service = []string{"a2"}, "web"
	got := []bool{v.EntryAllows(e, "a1"), v.EntryAllows(bound, "a1"), v.EntryAllows(bound, "a2"), v.EntryAllows(registered, "a1"), v.EntryAllows(registered, "x1")}
	if want := []bool{true, false, true, false, true}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestJWTKeys: only a core member publishes keys, a few of them, and those that have ended go; a revoked one is gone; a
// new epoch has none.
func TestJWTKeys(t *testing.T) {
	m := beforeLoss(t)
	now := uint64(m.View().Stamp().Wall().Unix())
	key := func(i int) JWTKeyPublish {
		return JWTKeyPublish{ID: fmt.Sprintf("%032x", i), Node: "a1", Key: []byte("k"), NotAfter: now + 1000 + uint64(i)}
	}
	do(t, m, key(1), CodeOK)
	do(t, m, key(1), CodeOK)
	stranger, ended, far := key(9), key(9), key(9)
	stranger.Node, ended.NotAfter, far.NotAfter = "nobody", 1, now+MaxJWTKeySeconds+100
	do(t, m, stranger, CodeDenied)
	do(t, m, ended, CodeInvalid)
	do(t, m, far, CodeInvalid)
	another := key(1)
	another.Key = []byte("other")
	do(t, m, another, CodeExists)
	for i := 2; i <= MaxNodeJWTKeys+1; i++ {
		apply(t, m, stampAt(3000+i), key(i))
	}
	keys := m.View().JWTKeys()
	if len(keys) != MaxNodeJWTKeys || keys[0].ID != key(2).ID {
		t.Errorf("keys: %+v", keys)
	}
	do(t, m, JWTKeyRevoke{ID: key(1).ID}, CodeNotFound)
	do(t, m, JWTKeyRevoke{ID: key(2).ID}, CodeOK)
	if got := mustRecover(t, m.View(), recoverOptions()).JWTKeys(); len(got) != 0 || len(m.View().JWTKeys()) != MaxNodeJWTKeys-1 {
		t.Errorf("recovered with %+v, before %d", got, len(m.View().JWTKeys()))
	}
	do(t, m, NodeSetLeft{Node: "a1", Left: true}, CodeOK)
	if got := m.View().JWTKeys(); len(got) != 0 {
		t.Errorf("keys of a node that left: %+v", got)
	}
}
