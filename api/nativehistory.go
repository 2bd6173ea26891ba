package api

import (
	"encoding/json"
	"net/http"

	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
)

// historyRoutes are the endpoints about what keys were. A key may contain anything, so none of them is below a key.
func historyRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/parley/v1/history/*", Action: policy.KVRead, Takes: []string{"stale"}, Serve: serveHistory},
		{Method: http.MethodDelete, Path: "/parley/v1/history/*", Action: policy.KVPurge, Once: true, Serve: servePurge},
		{Method: http.MethodPost, Path: "/parley/v1/undo/*", Action: policy.KVWrite, Takes: []string{"revision"}, Once: true, Serve: serveUndo},
	}
}

// History is GET /parley/v1/history/KEY: the versions of a key, the one that it has now first. Since is 0 when nothing is
// missing, else what was before that revision is not kept any more.
type History struct {
	Key      string       `json:"key"`
	Since    uint64       `json:"since"`
	Versions []keyVersion `json:"versions"`
}

// keyVersion is a Pair, or the revision of a deletion.
type keyVersion struct {
	Pair
	Deleted bool `json:"deleted"`
}

// deletedVersion leaves out what a deletion does not have.
type deletedVersion struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Deleted  bool   `json:"deleted"`
}

// MarshalJSON writes a deletion without the fields of a value.
func (v keyVersion) MarshalJSON() ([]byte, error) {
	if v.Deleted {
		return json.Marshal(deletedVersion{Key: v.Key, Revision: v.Revision, Deleted: true})
	}
	type plain keyVersion // without this method
	return json.Marshal(plain(v))
}

func (x *Exchange) historyQuery() HistoryQuery {
	q := HistoryQuery{Key: x.Rest}
	if x.Flag("stale") {
		q.Consistency = Stale
	}
	return q
}

func serveHistory(x *Exchange) error {
	answer, err := x.service.History(x.Context(), x.Caller, x.historyQuery())
	if err != nil {
		return err
	}
	x.Receipt(answer.Node, answer.Term, answer.Index, answer.Stamp)
	if len(answer.Rows) == 0 {
		return Errorf(CodeNotFound, "no key %q, and no trace of one", x.Rest).WithHint("list what exists: parley kv list PREFIX")
	}
	body := History{Key: x.Rest, Since: answer.Revision}
	for _, row := range answer.Rows {
		body.Versions = append(body.Versions, keyVersion{Pair: pairOf(row), Deleted: row.Version == 0})
	}
	return x.JSON(http.StatusOK, body)
}

// serveKVGetAt is GET /parley/v1/kv/KEY?revision=R: the key as it was when the state was at that revision.
func serveKVGetAt(x *Exchange) error {
	for _, name := range kvGetTakes {
		if name != "stale" && name != "revision" && x.Query().Has(name) {
			return Errorf(CodeInvalid, "%s and revision together", name).WithHint("an earlier revision can be read of one key, once: leave %s out", name)
		}
	}
	at, _, err := x.Uint("revision")
	if err != nil {
		return err
	}
	if at == 0 {
		return Errorf(CodeInvalid, "revision 0 is before the first").WithHint("parley kv history KEY lists the revisions of a key")
	}
	q := x.historyQuery()
	q.At = at
	answer, err := x.service.History(x.Context(), x.Caller, q)
	switch {
	case err != nil:
		return err
	case answer.Revision > 0:
		x.read(answer)
		return Errorf(CodeNotFound, "the history of %q begins at revision %d: what it was at %d is not kept any more", x.Rest, answer.Revision, at).
			WithHint("parley kv history KEY lists what is kept")
	case len(answer.Rows) == 0:
		x.read(answer)
		return Errorf(CodeNotFound, "there was no key %q at revision %d", x.Rest, at).WithHint("parley kv history KEY lists its revisions")
	}
	answer.Revision = answer.Rows[0].ModRevision
	x.read(answer)
	return x.JSON(http.StatusOK, pairOf(answer.Rows[0]))
}

// undone is the answer to an undo: the revision that it made, the one that it took back, and the one whose value the key has
// again, 0 if it is deleted.
type undone struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Undone   uint64 `json:"undone"`
	Restored uint64 `json:"restored"`
	Deleted  bool   `json:"deleted"`
}

func serveUndo(x *Exchange) error {
	revision, set, err := x.Uint("revision")
	if err != nil {
		return err
	}
	if !set {
		return Errorf(CodeInvalid, "the revision to undo is missing").
			WithHint("name the revision of the key's last write as ?revision=R: parley kv history KEY lists it")
	}
	if err := checkKey(x.Rest); err != nil {
		return err
	}
	done, err := x.Execute(state.KVUndo{Key: x.Rest, Revision: revision})
	if err != nil {
		return err
	}
	x.applied(done)
	restored := done.Result.Number()
	return x.JSON(http.StatusOK, undone{
		Key: x.Rest, Revision: done.Result.Revision, Undone: revision, Restored: restored, Deleted: restored == 0,
	})
}

// purged is the answer to a purge: how many versions were forgotten.
type purged struct {
	Key    string `json:"key"`
	Purged uint64 `json:"purged"`
}

func servePurge(x *Exchange) error {
	if err := checkKey(x.Rest); err != nil {
		return err
	}
	done, err := x.Execute(state.KVPurge{Key: x.Rest})
	if err != nil {
		return err
	}
	x.applied(done)
	return x.JSON(http.StatusOK, purged{Key: x.Rest, Purged: done.Result.Number()})
}
