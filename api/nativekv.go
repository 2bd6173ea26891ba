package api

import (
	"net/http"
	"strconv"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/state"
)

// written is the answer to a write: the key or prefix, the revision that the write made, and for a delete how many
// keys it removed.
type written struct {
	Key       string  `json:"key"`
	Revision  uint64  `json:"revision"`
	Deleted   *uint64 `json:"deleted,omitempty"`
	LockIndex uint64  `json:"lock_index,omitempty"` // with ?session
}

// Receipt of a command: the leader's name and the place in the log.
func (x *Exchange) applied(a Applied) { x.Receipt(a.Node, a.Term, a.Index, a.Stamp) }

// KVQuery reads the parameters that all key/value reads share.
func (x *Exchange) kvQuery() (KVQuery, error) {
	q := KVQuery{Key: x.Rest, Prefix: x.Flag("prefix"), KeysOnly: x.Flag("keys")}
	if x.Flag("stale") {
		q.Consistency = Stale
	}
	var err error
	if q.MinRevision, _, err = x.Uint("index"); err != nil {
		return q, err
	}
	if q.Wait, err = x.Duration("wait"); err != nil {
		return q, err
	}
	limit, _, err := x.Uint("limit")
	if err != nil {
		return q, err
	}
	q.Limit = int(min(limit, maxRows)) //nolint:gosec // bounded
	return q, nil
}

var kvGetTakes = []string{"prefix", "keys", "stale", "index", "wait", "limit", "watch", "revision"}

// serveKVGet answers one key, a prefix as a list, or with ?watch a stream. Parley-Revision is what a blocking read
// passes as ?index to wait for the next change.
func serveKVGet(x *Exchange) error {
	if x.Query().Has("revision") {
		return serveKVGetAt(x)
	}
	q, err := x.kvQuery()
	if err != nil {
		return err
	}
	if x.Flag("watch") {
		return serveWatch(x, q)
	}
	answer, err := x.service.Read(x.Context(), x.Caller, q)
	if err != nil {
		return err
	}
	x.read(answer)
	switch {
	case q.Prefix && q.KeysOnly:
		return x.JSON(http.StatusOK, keysOf(answer.Rows))
	case q.Prefix:
		return x.JSON(http.StatusOK, pairsOf(answer.Rows))
	case len(answer.Rows) == 0:
		return Errorf(CodeNotFound, "no key %q", q.Key).WithHint("list what exists: parley kv list PREFIX")
	}
	return x.writeBuilt(func(b []byte) []byte { return appendPair(b, answer.Rows[0]) })
}

// read sets the headers of a read.
func (x *Exchange) read(a KVAnswer) { x.readAt(a.Revision, a.Node, a.Term, a.Index, a.Stamp) }

func (x *Exchange) readAt(revision uint64, node string, term, index uint64, stamp clock.Stamp) {
	x.Receipt(node, term, index, stamp)
	x.W.Header()[headerRevision] = []string{strconv.FormatUint(revision, 10)}
}

func keysOf(rows []state.KV) []string {
	keys := make([]string, len(rows))
	for i, row := range rows {
		keys[i] = row.Key
	}
	return keys
}

// compare is ?cas=REV: the revision that the key must have, 0 for a key that must not exist; nil without it.
func (x *Exchange) compare() (*uint64, error) {
	revision, set, err := x.Uint("cas")
	if err != nil || !set {
		return nil, err
	}
	return &revision, nil
}

// serveKVPut writes a key; with ?session it takes the key's lock as well, or with ?release lets go of it.
func serveKVPut(x *Exchange) error {
	cas, err := x.compare()
	if err != nil {
		return err
	}
	flags, _, err := x.Uint("flags")
	if err != nil {
		return err
	}
	if err := checkKey(x.Rest); err != nil {
		return err
	}
	value, err := x.Body("value", state.MaxValueBytes)
	if err != nil {
		return err
	}
	put := state.Put{Key: x.Rest, Value: value, Flags: flags, Compare: cas}
	var cmd state.Command = put
	held := x.Query().Has("session") || x.Flag("release")
	if held {
		if cmd, err = hold(put, x.Query().Get("session"), x.Flag("release")); err != nil {
			return err
		}
	}
	done, err := x.Execute(cmd)
	if err != nil {
		return err
	}
	x.applied(done)
	answer := written{Key: x.Rest, Revision: done.Result.Revision}
	if held {
		answer.LockIndex = done.Result.Number()
	}
	return x.writeBuilt(func(b []byte) []byte { return appendWritten(b, answer) })
}

// hold makes the put one that takes or lets go of the key's lock.
func hold(put state.Put, session string, release bool) (state.Command, error) {
	switch {
	case session == "":
		return nil, Errorf(CodeInvalid, "the session is missing").WithHint("make one: parley session create")
	case put.Compare != nil:
		return nil, Errorf(CodeInvalid, "cas and session together").WithHint("a lock is a condition itself; for more, use a transaction")
	case release:
		return state.Unlock{Key: put.Key, Value: put.Value, Flags: put.Flags, Session: session}, nil
	}
	return state.Lock{Key: put.Key, Value: put.Value, Flags: put.Flags, Session: session}, nil
}

func serveKVDelete(x *Exchange) error {
	cas, err := x.compare()
	if err != nil {
		return err
	}
	if x.Flag("prefix") {
		return deletePrefix(x, cas)
	}
	if err := checkKey(x.Rest); err != nil {
		return err
	}
	done, err := x.Execute(state.Delete{Key: x.Rest, Compare: cas})
	if err != nil {
		return err
	}
	one := uint64(1)
	x.applied(done)
	answer := written{Key: x.Rest, Revision: done.Result.Revision, Deleted: &one}
	return x.writeBuilt(func(b []byte) []byte { return appendWritten(b, answer) })
}

func deletePrefix(x *Exchange, cas *uint64) error {
	cmd, err := prefixDelete(x.Rest, cas)
	if err != nil {
		return err
	}
	done, err := x.Execute(cmd)
	if err != nil {
		return err
	}
	count := done.Result.Number()
	x.applied(done)
	return x.JSON(http.StatusOK, written{Key: x.Rest, Revision: done.Result.Revision, Deleted: &count})
}

func prefixDelete(prefix string, cas *uint64) (state.Command, error) {
	if cas != nil {
		return nil, Errorf(CodeInvalid, "cas compares one key, not a prefix").WithHint("use a transaction to compare and delete several keys")
	}
	if err := checkQuery(&KVQuery{Key: prefix, Prefix: true}); err != nil {
		return nil, err
	}
	return state.DeletePrefix{Prefix: prefix}, nil
}

// checkKey refuses before a body is read.
func checkKey(key string) error {
	if err := checkQuery(&KVQuery{Key: key}); err != nil {
		return err
	}
	return nil
}
