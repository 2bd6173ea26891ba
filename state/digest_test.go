package state

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// rowTypes has one full row of each type, how it is stored, and where.
var rowTypes = []struct {
	table  Table
	key    string
	row    any
	encode func(any) []byte
	beside []string // fields kept beside the row: its key and revision
}{
	{TableKV, "k", KV{Key: "k", Value: []byte("v"), CreateRevision: 1, Version: 1},
		func(x any) []byte { return encodeKV(x.(KV)) }, []string{"Key", "ModRevision"}},
	{TableNode, "a1", Node{Name: "a1", HostKey: []byte("h"), SealKey: []byte("s"), Role: "local"},
		func(x any) []byte { return EncodeNode(x.(Node)) }, nil},
	{TableToken, "t", Token{ID: "t", Verify: []byte("v"), Role: "local", Redeemed: []Redemption{{Node: "n"}}},
		func(x any) []byte { return encodeToken(x.(Token)) }, nil},
	{TableCore, "c", CoreMember{RaftID: 1, Node: "n"},
		func(x any) []byte { return encodeCore(x.(CoreMember)) }, nil},
	{TableCluster, "", Cluster{ID: "i", TrustDomain: "t"},
		func(x any) []byte { return encodeCluster(x.(Cluster)) }, nil},
	{TableBundle, "", Bundle{Sequence: 1, Roots: [][]byte{{1}}},
		func(x any) []byte { return encodeBundle(x.(Bundle)) }, nil},
	{TableSeal, "n", Seal{Node: "n", Sealed: []byte("s")},
		func(x any) []byte { return encodeSeal(x.(Seal)) }, nil},
	{TableAuthority, "", Authority{Signing: RootHash{1}, Next: RootHash{2}, Since: 3, NextSince: 4},
		func(x any) []byte { return encodeAuthority(x.(Authority)) }, nil},
	{TableNextSeal, "n", Seal{Node: "n", Sealed: []byte("s")},
		func(x any) []byte { return encodeSeal(x.(Seal)) }, nil},
	{TableDenial, string(make([]byte, 32)), Denial{Node: "n", At: 3, By: "b", Reason: "r"},
		func(x any) []byte { return encodeDenial(x.(Denial)) }, nil},
	{TableDeny, string(make([]byte, 16)), Deny{Kind: DenyID, Subject: "i", Until: 3, At: 4, By: "b", Reason: "r"},
		func(x any) []byte { return EncodeDeny(x.(Deny)) }, nil},
	{TableRecovery, "", Recovery{SealKey: []byte("k"), Sealed: []byte("s")},
		func(x any) []byte { return encodeRecovery(x.(Recovery)) }, nil},
	{TableEvent, eventKey(Event{At: 1, Place: 2}), Event{At: 1, Place: 2, Node: "n", Kind: "k", Subject: "s", Message: "m"},
		func(x any) []byte { return encodeEvent(x.(Event)) }, nil},
	{TableCanary, requestKey(1, 2), Canary{Index: 1, Place: 2, At: 3, Epoch: 4, Node: "n"},
		func(x any) []byte { return encodeCanary(x.(Canary)) }, nil},
	{TableOperator, "n", Operator{Name: "n", Role: "local", KeyHash: [32]byte{1}, CreatedAt: 3, CreatedBy: "c", Generation: 1},
		func(x any) []byte { return EncodeOperator(x.(Operator)) }, nil},
	{TableEntry, "web", testEntryRow(), func(x any) []byte { return EncodeEntry(x.(Entry)) }, nil},
	{TableJWTKey, "k", JWTKey{ID: "k", Node: "n", Key: []byte("k"), NotAfter: 3, PublishedAt: 4},
		func(x any) []byte { return encodeJWTKey(x.(JWTKey)) }, nil},
	{TableUpstream, string(make([]byte, 32)), Upstream{Chain: [][]byte{[]byte("a"), []byte("r")}},
		func(x any) []byte { return encodeUpstream(x.(Upstream)) }, nil},
	{TableAdmission, "n", Admission{Name: "n", Kind: AdmissionSSH, Authorities: [][]byte{[]byte("a")}, Names: "*", Suffix: ".x", Role: "local", Core: true, CreatedAt: 3, CreatedBy: "c"},
		func(x any) []byte { return encodeAdmission(x.(Admission)) }, nil},
	{TableGeneration, "n", Generations{Node: "n", Binding: 1, Generation: 3, Marks: []GenerationMark{{1}}, BeginBy: 2},
		func(x any) []byte { return encodeGenerations(x.(Generations)) }, nil},
	{TableFork, "n", Fork{Node: "n", Generation: 1, At: 3, By: "b"},
		func(x any) []byte { return encodeFork(x.(Fork)) }, nil},
	{TableSealKey, "n", SealKey{Node: "n", Key: []byte("k")},
		func(x any) []byte { return encodeSealKey(x.(SealKey)) }, nil},
	{TableSession, sessionKey(testSession(1).ID), Session{
		ID: testSession(1).ID, Node: "a1", Behavior: BehaviorRelease, NodeChecks: []string{"c"}, ServiceChecks: []string{"d"},
	}, func(x any) []byte { return EncodeSession(x.(Session)) }, []string{"ID", "ModRevision"}},
	{TableHistory, historyKey(3, "k"), KV{Key: "k", Value: []byte("v"), CreateRevision: 1, Version: 1},
		func(x any) []byte { return encodeKV(x.(KV)) }, []string{"Key", "ModRevision"}},
	{TableEpoch, epochKey(2), EpochStatement{
		ClusterID: strings.Repeat("0", 32), Epoch: Epoch{2, [16]byte{2}}, Before: Epoch{1, [16]byte{1}}, Node: "a1", Signature: []byte("s"),
		HostKey: []byte("h"), Address: "a",
	}, func(x any) []byte { return encodeEpochStatement(x.(EpochStatement)) }, nil},
	{TableCatalogNode, "x1", *fullRegister().Node, func(x any) []byte { return encodeCatalogNode(x.(CatalogNode)) },
		[]string{"Name", "ModRevision", "Agent"}},
	{TableService, catalogKey("x1", "s"), *fullRegister().Service, func(x any) []byte { return encodeCatalogService(x.(CatalogService)) },
		[]string{"Node", "ID", "ModRevision"}},
	{TableCheck, catalogKey("x1", "c"), CatalogCheck{
		Node: "x1", ID: "c", Status: CheckWarning, Definition: []byte("{}"), ServiceTags: []string{"of the service"},
	}, func(x any) []byte { return encodeCatalogCheck(x.(CatalogCheck)) },
		[]string{"Node", "ID", "ModRevision", "ServiceName", "ServiceTags", "ServiceTags[0]"}},
}

// The digest notices a change of any single field of any row type, and of key, revision and table.
// Fields are found by reflection: one added without an encoding fails here.
func TestDigestNoticesEveryField(t *testing.T) {
	for _, rt := range rowTypes {
		base := digestWith(rt.table, rt.key, 1, rt.encode(rt.row))
		changed := 0
		mutate(reflect.ValueOf(rt.row), func(path string, row reflect.Value) {
			for _, f := range rt.beside {
				if path == f {
					return
				}
			}
			changed++
			if digestWith(rt.table, rt.key, 1, rt.encode(row.Interface())) == base {
				t.Errorf("%s.%s changed, the digest did not", rt.table, path)
			}
		})
		if changed == 0 {
			t.Errorf("%s: no field was changed", rt.table)
		}
		row := rt.encode(rt.row)
		if digestWith(rt.table, rt.key+"x", 1, row) == base || digestWith(rt.table, rt.key, 2, row) == base {
			t.Errorf("%s: the digest ignores the key or the revision", rt.table)
		}
	}
	if digestWith(TableTombstone, "k", 1, nil) == digestWith(TableTombstone, "k", 2, nil) {
		t.Error("the digest ignores a tombstone's revision")
	}
	if digestWith(TableFloor, "", 1, encodeFloor(1)) == digestWith(TableFloor, "", 1, encodeFloor(2)) {
		t.Error("the digest ignores the floor")
	}
	a, b := newStore(AllClasses), newStore(AllClasses)
	if b.at.Revision = 1; a.digestOf(AllClasses) == b.digestOf(AllClasses) {
		t.Error("the digest ignores the revision")
	}
	b = newStore(AllClasses)
	if b.tables[TableNode].revision = 1; a.digestOf(AllClasses) == b.digestOf(AllClasses) {
		t.Error("the digest ignores a table's revision")
	}
}

func digestWith(table Table, key string, revision uint64, row []byte) [32]byte {
	s := newStore(AllClasses)
	s.set(table, key, revision, row)
	return s.digestOf(AllClasses)
}

// mutate calls f once for each leaf of v, with a copy of v in which only that leaf is different.
func mutate(v reflect.Value, f func(path string, changed reflect.Value)) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		with := func(x reflect.Value) reflect.Value {
			c := reflect.New(v.Type()).Elem()
			c.Set(v)
			c.Field(i).Set(x)
			return c
		}
		mutateValue(name, v.Field(i), func(path string, x reflect.Value) { f(path, with(x)) })
	}
}

func mutateValue(path string, v reflect.Value, f func(string, reflect.Value)) {
	x := reflect.New(v.Type()).Elem()
	x.Set(v)
	switch v.Kind() {
	case reflect.String:
		x.SetString(v.String() + "z")
	case reflect.Bool:
		x.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		x.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		x.SetUint(v.Uint() + 1)
	case reflect.Struct:
		mutate(v, func(p string, changed reflect.Value) { f(path+"."+p, changed) })
		return
	case reflect.Array:
		x.Index(v.Len() - 1).SetUint(99)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			x.SetBytes(append([]byte{'z'}, v.Bytes()...))
			break
		}
		mutateValue(path+"[0]", v.Index(0), func(p string, changed reflect.Value) {
			c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(c, v)
			c.Index(0).Set(changed)
			f(p, c)
		})
		x = reflect.Append(v, v.Index(0))
	default:
		panic("no mutation for " + path)
	}
	f(path, x)
}

// Rows fall into all buckets, about evenly: a bucket that differs leads to few rows.
func TestBucketsAreEven(t *testing.T) {
	const keys = 100 * DigestBuckets
	var count [DigestBuckets]int
	for i := range keys {
		count[bucketOf(TableKV, "service/"+strconv.Itoa(i))]++
	}
	for i, n := range count {
		if n < 25 || n > 300 {
			t.Fatalf("bucket %d has %d of %d keys, want about 100", i, n, keys)
		}
	}
}
