package consul

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

// pair is one key as this dialect shows it. Value is null when it is empty; Session is left out when nobody holds the
// key.
type pair struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	CreateIndex uint64
	ModifyIndex uint64
	Session     string `json:",omitempty"`
}

func pairsOf(rows []state.KV) []pair {
	pairs := make([]pair, len(rows))
	for i, row := range rows {
		pairs[i] = pair{
			LockIndex: row.LockIndex, Key: row.Key, Flags: row.Flags, Value: row.Value,
			CreateIndex: row.CreateRevision, ModifyIndex: row.ModRevision, Session: row.Session,
		}
		if len(row.Value) == 0 {
			pairs[i].Value = nil
		}
	}
	return pairs
}

// kvGet answers a key as a list of one, ?recurse a list, ?keys names, ?raw bytes. A missing key is a 404 without a
// body, and with the index that the next blocking read starts from.
func (d *dialect) kvGet(x *api.Exchange) error {
	q, err := d.kvQuery(x)
	if err != nil {
		return refuse(x, err)
	}
	answer, err := x.Service().Read(x.Context(), x.Caller, q)
	if err != nil {
		readHeaders(x, x.Service().Local().Hub.View().KVRevision())
		return err
	}
	readHeaders(x, answer.Revision)
	x.Receipt(answer.Node, answer.Term, answer.Index, answer.Stamp)
	switch {
	case len(answer.Rows) == 0:
		x.Head(http.StatusNotFound)
		return nil
	case q.KeysOnly:
		return writeJSON(x, fold(answer.Rows, q.Key, x.Query().Get("separator")))
	case x.Query().Has("raw") && !q.Prefix:
		// Sandboxed as data: a stored page must not run as a page of this agent.
		x.W.Header().Set("Content-Security-Policy", "sandbox")
		return x.Write(http.StatusOK, "application/octet-stream", answer.Rows[0].Value)
	}
	return writeJSON(x, pairsOf(answer.Rows))
}

func (d *dialect) kvQuery(x *api.Exchange) (api.KVQuery, error) {
	o, err := d.readOptions(x)
	if err != nil {
		return api.KVQuery{}, err
	}
	query := x.Query()
	keys := query.Has("keys")
	q := api.KVQuery{
		Key: x.Rest, Prefix: query.Has("recurse") || keys, KeysOnly: keys,
		Consistency: o.consistency, MinRevision: o.index, Wait: o.wait,
	}
	if q.Key == "" && !q.Prefix {
		return q, badRequest("Missing key name")
	}
	return q, nil
}

// fold cuts each key behind the first separator that follows the prefix and names each result once. The rows are in
// order, so equal results are neighbors.
func fold(rows []state.KV, prefix, separator string) []string {
	var names []string
	for _, row := range rows {
		name := row.Key
		if separator != "" {
			if i := strings.Index(name[len(prefix):], separator); i >= 0 {
				name = name[:len(prefix)+i+len(separator)]
			}
		}
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return names
}

// kvPut answers true, or false for a compare that lost, a lock that was not to be had, and one that was not held.
func (d *dialect) kvPut(x *api.Exchange) error {
	put, err := d.put(x)
	if err != nil {
		return refuse(x, err)
	}
	if put.Value, err = x.Body("value", state.MaxValueBytes); err != nil {
		return err
	}
	query := x.Query()
	switch {
	case query.Has("acquire"):
		return d.hold(x, state.Lock{Key: put.Key, Value: put.Value, Flags: put.Flags, Session: query.Get("acquire")})
	case query.Has("release"):
		return d.hold(x, state.Unlock{Key: put.Key, Value: put.Value, Flags: put.Flags, Session: query.Get("release")})
	}
	return d.execute(x, put)
}

// hold takes or lets go of a lock. A session that does not exist is 500, and the body begins with what clients look
// for.
func (d *dialect) hold(x *api.Exchange, cmd state.Command) error {
	done, err := x.Service().Execute(x.Context(), x.Caller, cmd)
	var failed *api.Error
	if errors.As(err, &failed) {
		switch failed.Code {
		case api.CodeConflict:
			return writeJSON(x, false)
		case api.CodeNotFound:
			return refuse(x, &refusal{http.StatusInternalServerError, failed.Message})
		}
	}
	if err != nil {
		return err
	}
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return writeJSON(x, true)
}

func (d *dialect) put(x *api.Exchange) (state.Put, error) {
	put := state.Put{Key: x.Rest}
	if err := d.checkWrite(x); err != nil {
		return put, err
	}
	var err error
	if put.Compare, err = number(x, "cas"); err != nil {
		return put, err
	}
	flags, err := number(x, "flags")
	if err != nil {
		return put, err
	}
	if flags != nil {
		put.Flags = *flags
	}
	return put, nil
}

// checkWrite refuses what no write takes.
func (d *dialect) checkWrite(x *api.Exchange) error {
	if err := d.checkDatacenter(x); err != nil {
		return err
	}
	query := x.Query()
	var conditions []string
	for _, name := range []string{"cas", "acquire", "release"} {
		if query.Has(name) {
			conditions = append(conditions, name)
		}
	}
	if len(conditions) > 1 {
		return badRequest("Conflicting flags: " + strings.Join(conditions, " and "))
	}
	if x.Rest == "" && !query.Has("recurse") {
		return badRequest("Missing key name")
	}
	if len(x.Rest) > state.MaxKeyBytes {
		return badRequest("The key has " + strconv.Itoa(len(x.Rest)) + " bytes, the limit is " + strconv.Itoa(state.MaxKeyBytes))
	}
	if !utf8.ValidString(x.Rest) {
		return badRequest("The key is not UTF-8: write its bytes as text, such as hex")
	}
	return nil
}

func number(x *api.Exchange, name string) (*uint64, error) {
	text, ok := x.Query()[name]
	if !ok {
		return nil, nil
	}
	value, err := strconv.ParseUint(text[0], 10, 64)
	if err != nil {
		return nil, badRequest("Invalid " + name + ": a whole number is needed")
	}
	return &value, nil
}

// kvDelete answers true also when there was nothing to delete, and false for a compare that lost. A compare with 0
// never deletes.
func (d *dialect) kvDelete(x *api.Exchange) error {
	if err := d.checkWrite(x); err != nil {
		return refuse(x, err)
	}
	cas, err := number(x, "cas")
	if err != nil {
		return refuse(x, err)
	}
	recurse := x.Query().Has("recurse")
	switch {
	case recurse && cas != nil:
		return refuse(x, badRequest("Conflicting flags: recurse and cas"))
	case recurse:
		return d.execute(x, state.DeletePrefix{Prefix: x.Rest})
	case cas != nil && *cas == 0:
		return writeJSON(x, false)
	}
	return d.execute(x, state.Delete{Key: x.Rest, Compare: cas})
}

func (d *dialect) execute(x *api.Exchange, cmd state.Command) error {
	done, err := x.Service().Execute(x.Context(), x.Caller, cmd)
	var failed *api.Error
	if errors.As(err, &failed) {
		switch failed.Code {
		case api.CodeConflict:
			return writeJSON(x, false)
		case api.CodeNotFound: // a delete of nothing
			return writeJSON(x, true)
		}
	}
	if err != nil {
		return err
	}
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return writeJSON(x, true)
}
