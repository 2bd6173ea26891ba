package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// Identities are what an agent knows about the identities of its host.
type Identities struct {
	// Show lists the certificates in use.
	Show func() IdentityReport
	// Explain says which entries hold for a process of this host, and how the others differ.
	Explain func(ctx context.Context, pid int) (Explanation, error)
}

// IdentityReport is GET /parley/v1/identity. OutageIn is how long everything here stays valid if nothing at all is renewed:
// the least that any link of any chain in use has left.
type IdentityReport struct {
	OutageIn     int64              `json:"outage_in_s"`
	First        *CertificateInUse  `json:"first"` // that ends first
	Certificates []CertificateInUse `json:"certificates"`
}

// CertificateInUse is one link of a chain. Remaining is the part of its life that is left.
type CertificateInUse struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Link      string    `json:"link"` // leaf, issuer or root
	Of        string    `json:"of"`   // agent, workload or core
	Hint      string    `json:"hint,omitempty"`
	Serial    string    `json:"serial"`
	NotAfter  time.Time `json:"not_after"`
	Remaining float64   `json:"remaining_ratio"`
}

// Explanation is GET /parley/v1/identity/explain/PID. Nearest are the entries that do not hold, the nearest first, at most
// MaxNearest.
type Explanation struct {
	PID       int         `json:"pid"`
	Selectors []string    `json:"selectors"`
	Entries   []EntryInfo `json:"entries"` // that hold
	Nearest   []NearEntry `json:"nearest"`
}

// MaxNearest bounds what an explanation lists.
const MaxNearest = 5

// NearEntry is an entry that does not hold, with one sentence for each reason.
type NearEntry struct {
	EntryInfo
	Differences []string `json:"differences"`
}

// EntryInfo is one registration entry.
type EntryInfo struct {
	Name          string    `json:"name"`
	SPIFFEID      string    `json:"spiffe_id"`
	Selectors     []string  `json:"selectors"`
	Nodes         []string  `json:"nodes"`
	Service       string    `json:"service"`
	FederatesWith []string  `json:"federates_with"`
	TTLSeconds    uint64    `json:"ttl_s"`
	JWTTTLSeconds uint64    `json:"jwt_ttl_s"`
	Hint          string    `json:"hint"`
	Owner         string    `json:"owner"`
	CreatedAt     time.Time `json:"created_at"`
	ChangedAt     time.Time `json:"changed_at"`
	ChangedBy     string    `json:"changed_by"`
	Generation    uint64    `json:"generation"`
}

// NewEntryInfo shows an entry, with the defaults in place of what it leaves open.
func NewEntryInfo(e state.Entry) EntryInfo {
	filled := func(list []string) []string { return append([]string{}, list...) }
	return EntryInfo{
		Name: e.Name, SPIFFEID: e.SPIFFEID, Selectors: filled(e.Selectors), Nodes: filled(e.Nodes), Service: e.Service, FederatesWith: filled(e.FederatesWith),
		TTLSeconds: e.TTL(), JWTTTLSeconds: e.JWTTTL(), Hint: e.Hint, Owner: e.Owner,
		CreatedAt: e.CreatedAt.Wall().UTC(), ChangedAt: e.ChangedAt.Wall().UTC(), ChangedBy: e.ChangedBy, Generation: e.Generation,
	}
}

func identityRoutes() []Route {
	stale := []string{"stale"}
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/identity", Action: policy.IdentityRead, Serve: serveIdentity},
		{Method: http.MethodGet, Path: "/parley/v1/identity/explain/*", Action: policy.EntryRead, Serve: serveIdentityExplain},
		{Method: http.MethodGet, Path: "/parley/v1/identity/entries", Action: policy.EntryRead, Takes: stale, Serve: serveEntries},
		{Method: http.MethodGet, Path: "/parley/v1/identity/entry/*", Action: policy.EntryRead, Takes: stale, Serve: serveEntry},
		{Method: http.MethodPost, Path: "/parley/v1/identity/entry", Action: policy.EntryWrite, Once: true, Serve: serveEntrySet},
		{Method: http.MethodDelete, Path: "/parley/v1/identity/entry/*", Action: policy.EntryWrite, Once: true, Serve: serveEntryDelete},
	}
}

func serveIdentity(x *Exchange) error {
	return x.JSON(http.StatusOK, x.service.local.Identities.Show())
}

func serveIdentityExplain(x *Exchange) error {
	pid, err := strconv.Atoi(x.Rest)
	if err != nil || pid <= 0 || pid > 1<<22 {
		return Errorf(CodeInvalid, "%q is not the number of a process", x.Rest)
	}
	found, err := x.service.local.Identities.Explain(x.Context(), pid)
	if err != nil {
		return err
	}
	return x.JSON(http.StatusOK, found)
}

func serveEntries(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	list := []EntryInfo{}
	for _, e := range v.Entries() {
		list = append(list, NewEntryInfo(e))
	}
	return x.JSON(http.StatusOK, list)
}

func serveEntry(x *Exchange) error {
	v, err := x.operators()
	if err != nil {
		return err
	}
	e, ok := v.Entry(x.Rest)
	if !ok {
		return Errorf(CodeNotFound, "there is no entry %q", x.Rest).WithHint("list them: parley identity entry list")
	}
	return x.JSON(http.StatusOK, NewEntryInfo(e))
}

// entryBody is POST /parley/v1/identity/entry. Without spiffe_id it is /svc/NAME of the cluster's trust domain; one that
// begins with a slash is a path in it. TTLs are in seconds, 0 for the default.
type entryBody struct {
	Name          string   `json:"name"`
	SPIFFEID      string   `json:"spiffe_id"`
	Selectors     []string `json:"selectors"`
	Nodes         []string `json:"nodes"`
	Service       string   `json:"service"`
	FederatesWith []string `json:"federates_with"`
	TTLSeconds    uint64   `json:"ttl_s"`
	JWTTTLSeconds uint64   `json:"jwt_ttl_s"`
	Hint          string   `json:"hint"`
	Owner         string   `json:"owner"`
	Replace       bool     `json:"replace"`
}

func (b entryBody) entry(td string) state.Entry {
	id := b.SPIFFEID
	switch {
	case id == "":
		id = "spiffe://" + td + "/svc/" + b.Name
	case id[0] == '/':
		id = "spiffe://" + td + id
	}
	return state.Entry{
		Name: b.Name, SPIFFEID: id, Selectors: inOrder(b.Selectors), Nodes: inOrder(b.Nodes), Service: b.Service, FederatesWith: inOrder(b.FederatesWith),
		TTLSeconds: b.TTLSeconds, JWTTTLSeconds: b.JWTTTLSeconds, Hint: b.Hint, Owner: b.Owner,
	}
}

// inOrder sorts a list; the same twice is the same once.
func inOrder(list []string) []string {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

func serveEntrySet(x *Exchange) error {
	var body entryBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	done, err := x.Execute(state.EntrySet{Entry: body.entry(x.service.local.TrustDomain.Name()), Replace: body.Replace})
	if err != nil {
		if refused := AsError(err); refused.Code == CodeExists {
			err = refused.WithHint("write it anew on purpose: parley identity entry add %s --replace", body.Name)
		}
		return err
	}
	e, err := state.DecodeEntry(done.Result.Body)
	if err != nil {
		return Errorf(CodeInternal, "entry %q: %v", body.Name, err)
	}
	x.applied(done)
	return x.JSON(http.StatusOK, NewEntryInfo(e))
}

func serveEntryDelete(x *Exchange) error {
	done, err := x.Execute(state.EntryDelete{Name: x.Rest})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, map[string]any{"name": x.Rest, "removed": true})
}
