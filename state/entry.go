package state

import (
	"slices"

	"github.com/parley-mesh/parley/clock"
)

// Limits of registration entries. They are part of the meaning of version 1 of EntrySet.
const (
	MaxEntries         = 1 << 14
	MaxSPIFFEIDBytes   = 2048 // a whole SPIFFE ID, by its standard
	MaxEntrySelectors  = 16
	MaxSelectorBytes   = 512
	MaxEntryNodes      = 64
	MaxEntryFederates  = 16
	MaxEntryHintBytes  = 256
	MaxEntryOwnerBytes = 128
	MinEntryTTLSeconds = 10
	MaxEntryTTLSeconds = 6 * 60 * 60 // of an X509-SVID
	MaxEntryJWTSeconds = 60 * 60     // of a JWT-SVID
	DefaultEntryTTL    = 60 * 60     // seconds, where TTLSeconds is 0
	DefaultEntryJWTTTL = 5 * 60      // seconds, where JWTTTLSeconds is 0
	spiffeScheme       = "spiffe://"
)

// Entry says which programs get which identity: those for which all of Selectors were found. There is nothing secret in
// it, and every agent has all entries.
type Entry struct {
	Name          string   // by the rules of nodes' names
	SPIFFEID      string   // spiffe://TD/PATH, of the cluster's trust domain
	Selectors     []string // KIND:VALUE, sorted, each once; one of them is uid, unit or cgroup
	Nodes         []string // on which it counts, sorted; none: on all
	Service       string   // "", or it counts only on nodes with an instance of this service
	FederatesWith []string // trust domains whose bundles the program gets too, sorted
	TTLSeconds    uint64   // of an X509-SVID; 0: DefaultEntryTTL
	JWTTTLSeconds uint64   // of a JWT-SVID; 0: DefaultEntryJWTTTL
	Hint          string   // tells a program with several identities which is which
	Owner         string   // whom to ask: a group, rather than a person
	CreatedAt     clock.Stamp
	ChangedAt     clock.Stamp
	ChangedBy     string // the caller of the last command that wrote it
	Generation    uint64 // one more each time it is written anew
}

// TTL is how many seconds an X509-SVID of the entry is valid.
func (e Entry) TTL() uint64 {
	if e.TTLSeconds == 0 {
		return DefaultEntryTTL
	}
	return e.TTLSeconds
}

// JWTTTL is how many seconds a JWT-SVID of the entry is valid.
func (e Entry) JWTTTL() uint64 {
	if e.JWTTTLSeconds == 0 {
		return DefaultEntryJWTTTL
	}
	return e.JWTTTLSeconds
}

// AllowsNode reports whether the entry counts on a node, as far as Nodes says.
func (e Entry) AllowsNode(node string) bool {
	return len(e.Nodes) == 0 || slices.Contains(e.Nodes, node)
}

// EntrySet writes an entry: a new one, or with Replace one that there is. The same once more changes nothing. What the
// machine sets (CreatedAt and what is below it) is not part of the command. The result's Body is the row (DecodeEntry).
type EntrySet struct {
	Entry   Entry
	Replace bool
}

// EntryDelete removes an entry. What was issued by it counts until it ends; nothing is issued any more.
type EntryDelete struct{ Name string }

func (EntrySet) kind() kind    { return kindEntrySet }
func (EntryDelete) kind() kind { return kindEntryDelete }

func (c EntrySet) apply(a *applying) Result {
	td := a.s.cluster().TrustDomain
	if own, _, _ := cutSPIFFEID(c.Entry.SPIFFEID); own != td {
		return refuse(CodeInvalid, "%s is of the trust domain %s: this cluster's is %s", c.Entry.SPIFFEID, own, td)
	}
	if slices.Contains(c.Entry.FederatesWith, td) {
		return refuse(CodeInvalid, "%s is this cluster's own trust domain: its bundle comes anyway, federate with others", td)
	}
	old, known := a.s.entry(c.Entry.Name)
	if known && old.same(c.Entry) {
		return Result{Body: EncodeEntry(old)} // a retry
	}
	switch {
	case known && !c.Replace:
		return refuse(CodeExists, "there is an entry %q already, and it is another one: choose another name, or replace it", c.Entry.Name)
	case !known && c.Replace:
		return refuse(CodeNotFound, "there is no entry %q to replace", c.Entry.Name)
	case !known && a.s.tables[TableEntry].rows >= MaxEntries:
		return refuse(CodeLimit, "there are %d entries, the most that there can be: remove one", MaxEntries)
	}
	e := c.Entry
	e.CreatedAt, e.ChangedAt, e.ChangedBy, e.Generation = a.at, a.at, a.caller, old.Generation+1
	if known {
		e.CreatedAt = old.CreatedAt
	}
	a.set(TableEntry, e.Name, EncodeEntry(e))
	return Result{Body: EncodeEntry(e)}
}

// same reports whether two entries say the same, whoever wrote them.
func (e Entry) same(other Entry) bool {
	return string(appendEntry(nil, e)) == string(appendEntry(nil, other))
}

func (c EntryDelete) apply(a *applying) Result {
	if _, known := a.s.entry(c.Name); !known {
		return refuse(CodeNotFound, "there is no entry %q", c.Name)
	}
	a.set(TableEntry, c.Name, nil)
	return Result{}
}

// Entry returns the registration entry of that name.
func (v *View) Entry(name string) (Entry, bool) { return v.s.entry(name) }

// Entries returns all registration entries by name.
func (v *View) Entries() []Entry {
	return rows(v.s, TableEntry, func(r *record) (Entry, error) { return DecodeEntry(r.row) })
}

// EntryAllows reports whether an entry counts on a node: it is not bound to others, and the service that it wants is
// registered there.
func (v *View) EntryAllows(e Entry, node string) bool {
	return e.AllowsNode(node) && (e.Service == "" || slices.Contains(v.InstanceNodes(e.Service), node))
}

func (s *store) entry(name string) (Entry, bool) {
	r, ok := s.get(TableEntry, name)
	if !ok {
		return Entry{}, false
	}
	return must(DecodeEntry(r.row)), true
}
