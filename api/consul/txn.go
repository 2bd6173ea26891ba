package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
)

const maxTxnBody = 1 << 20

// txnOp is one step of a transaction. One of the fields is set.
type txnOp struct {
	KV      *txnKV
	Node    *txnNode
	Service *txnService
	Check   *txnCheck
	Session *txnSession
}

type txnKV struct {
	Verb    string
	Key     string
	Value   []byte
	Flags   uint64
	Index   uint64
	Session string
}

// txnAnswer has one result for each row that the verbs answer with, or the steps that could not be done.
type txnAnswer struct {
	Results []txnResult
	Errors  []txnError
}

type txnResult struct {
	KV      *pair    `json:",omitempty"`
	Node    *node    `json:",omitempty"`
	Service *service `json:",omitempty"`
	Check   *check   `json:",omitempty"`
}

type txnError struct {
	OpIndex int
	What    string
}

// verb is what a verb of this dialect means. A verb that compares takes Index for the revision.
type verb struct {
	kind     state.OpKind
	compares bool
	silent   bool // answers with no row
}

var verbs = map[string]verb{
	"set":              {kind: state.OpPut},
	"cas":              {kind: state.OpPut, compares: true},
	"delete":           {kind: state.OpDelete, silent: true},
	"delete-cas":       {kind: state.OpDelete, compares: true, silent: true},
	"delete-tree":      {kind: state.OpDeletePrefix, silent: true},
	"lock":             {kind: state.OpLock},
	"unlock":           {kind: state.OpUnlock},
	"get":              {kind: state.OpGetExisting},
	"get-or-empty":     {kind: state.OpGet},
	"get-tree":         {kind: state.OpGetTree},
	"check-index":      {kind: state.OpCheckRevision, compares: true},
	"check-session":    {kind: state.OpCheckSession},
	"check-not-exists": {kind: state.OpCheckAbsent, silent: true},
}

// txn does all steps or none. Those that could not be done are all named, with 409. One that only reads is answered
// like a read, where this agent can.
func (d *dialect) txn(x *api.Exchange) error {
	o, err := d.readOptions(x)
	if err != nil {
		return refuse(x, err)
	}
	raw, err := x.Body("transaction", maxTxnBody)
	if err != nil {
		return err
	}
	if !utf8.Valid(raw) { // the decoder would replace such bytes, and make one key of two
		return refuse(x, badRequest("Failed to parse body: it is not UTF-8"))
	}
	var ops []txnOp
	if err := json.Unmarshal(raw, &ops); err != nil {
		return refuse(x, badRequest("Failed to parse body: "+err.Error()))
	}
	txn, err := commandOf(ops)
	if err != nil {
		return refuse(x, err)
	}
	read, answered, err := x.Service().ReadOps(x.Context(), x.Caller, txn.Then, o.consistency)
	if err != nil {
		return err
	}
	if answered {
		readHeaders(x, read.Revision)
		x.Receipt(read.Node, read.Term, read.Index, read.Stamp)
		return d.writeTxn(x, ops, read.Answer)
	}
	done, err := x.Service().Execute(x.Context(), x.Caller, txn)
	if done.Result.Body == nil {
		if err == nil {
			err = api.Errorf(api.CodeInternal, "the transaction at index %d has no answer", done.Index)
		}
		return err
	}
	answer, decodeErr := state.DecodeTxnAnswer(done.Result.Body)
	if decodeErr != nil {
		return api.Errorf(api.CodeInternal, "answer of the transaction at index %d: %v", done.Index, decodeErr)
	}
	readHeaders(x, done.Result.Revision)
	x.Receipt(done.Node, done.Term, done.Index, done.Stamp)
	return d.writeTxn(x, ops, answer)
}

func (d *dialect) writeTxn(x *api.Exchange, ops []txnOp, answer state.TxnAnswer) error {
	if len(answer.Errors) > 0 {
		return x.JSON(http.StatusConflict, txnAnswer{Errors: txnErrors(answer.Errors)})
	}
	return writeJSON(x, txnAnswer{Results: d.txnResults(x, ops, answer.Results)})
}

func commandOf(ops []txnOp) (state.Txn, error) {
	var txn state.Txn
	if len(ops) > state.MaxTxnOps {
		return txn, &refusal{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Transaction contains too many operations (%d > %d)", len(ops), state.MaxTxnOps)}
	}
	for i, op := range ops {
		step, err := op.command(i)
		if err != nil {
			return txn, err
		}
		txn.Then = append(txn.Then, step)
	}
	return txn, nil
}

func (op txnOp) command(i int) (state.Op, error) {
	if op.KV == nil {
		return op.catalogCommand(i)
	}
	v, known := verbs[op.KV.Verb]
	if !known {
		return state.Op{}, badRequest(fmt.Sprintf("operation %d has the unknown KV verb %.40q", i, op.KV.Verb))
	}
	tree := v.kind == state.OpDeletePrefix || v.kind == state.OpGetTree
	switch {
	case op.KV.Key == "" && !tree:
		return state.Op{}, badRequest(fmt.Sprintf("operation %d is missing a key", i))
	case len(op.KV.Value) > state.MaxValueBytes:
		return state.Op{}, &refusal{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Value for key %.80q is too large (%d > %d bytes)", op.KV.Key, len(op.KV.Value), state.MaxValueBytes)}
	}
	step := state.Op{Kind: v.kind, Key: op.KV.Key, Value: op.KV.Value, Flags: op.KV.Flags, Session: op.KV.Session}
	if v.compares {
		step.Compare = &op.KV.Index
	}
	if id, err := state.ParseSessionID(step.Session); err == nil {
		step.Session = id.String()
	}
	return step, nil
}

func (d *dialect) txnResults(x *api.Exchange, ops []txnOp, results []state.OpResult) []txnResult {
	out := []txnResult{}
	for i, r := range results {
		if ops[i].KV == nil {
			out = append(out, d.catalogResult(x, r)...)
			continue
		}
		rows := r.Tree
		switch {
		case verbs[ops[i].KV.Verb].silent:
			continue
		case r.Found:
			rows = []state.KV{r.KV}
		case verbs[ops[i].KV.Verb].kind == state.OpGet: // get-or-empty of a missing key
			rows = []state.KV{{Key: ops[i].KV.Key}}
		}
		for _, one := range pairsOf(rows) {
			out = append(out, txnResult{KV: &one})
		}
	}
	return out
}

func txnErrors(all []state.OpError) []txnError {
	out := make([]txnError, len(all))
	for i, e := range all {
		out[i] = txnError{OpIndex: e.Op, What: e.Message}
	}
	return out
}
