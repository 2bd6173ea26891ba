package api

import (
	"net/http"

	"github.com/parley-mesh/parley/state"
)

// txnBody is POST /parley/v1/txn: Then is done if every compare holds, Else otherwise, all as one step.
type txnBody struct {
	Compare []txnCompare `json:"compare"`
	Then    []txnOp      `json:"then"`
	Else    []txnOp      `json:"else"`
}

// txnCompare compares what a key has with what is given: target revision (the default), create_revision, version or
// value; relation = (the default), !=, < or >. A missing key has revision 0.
type txnCompare struct {
	Key         string  `json:"key"`
	Target      string  `json:"target"`
	Relation    string  `json:"relation"`
	Number      uint64  `json:"number"`
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64"`
}

// txnOp is one step: put, delete, delete_prefix, get, get_existing, get_tree, lock, unlock, check_revision (against
// cas), check_session or check_absent.
type txnOp struct {
	Op          string  `json:"op"`
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"value_base64"`
	Flags       uint64  `json:"flags"`
	CAS         *uint64 `json:"cas"`
	Session     string  `json:"session"`
}

// txnAnswer has one result for each op of the branch that ran.
type txnAnswer struct {
	Succeeded bool        `json:"succeeded"`
	Revision  uint64      `json:"revision"`
	Results   []txnResult `json:"results"`
}

type txnResult struct {
	Op      string `json:"op"`
	Key     string `json:"key"`
	Pair    *Pair  `json:"pair,omitempty"`
	Pairs   []Pair `json:"pairs,omitempty"` // of a get_tree
	Deleted uint64 `json:"deleted"`
}

func serveTxn(x *Exchange) error {
	var body txnBody
	if err := x.Decode(&body); err != nil {
		return err
	}
	txn, err := body.command()
	if err != nil {
		return err
	}
	done, err := x.Execute(txn)
	if err != nil {
		return err
	}
	answer, err := state.DecodeTxnAnswer(done.Result.Body)
	ran := body.Else
	if answer.Succeeded {
		ran = body.Then
	}
	if err != nil || len(answer.Results) != len(ran) {
		return Errorf(CodeInternal, "answer of the transaction at index %d has %d results for %d ops: %v", done.Index, len(answer.Results), len(ran), err)
	}
	x.applied(done)
	return x.JSON(http.StatusOK, txnAnswer{
		Succeeded: answer.Succeeded, Revision: done.Result.Revision, Results: txnResults(ran, answer.Results),
	})
}

func txnResults(ran []txnOp, results []state.OpResult) []txnResult {
	out := make([]txnResult, 0, len(results))
	for i, r := range results {
		op := ran[i]
		one := txnResult{Op: op.Op, Key: op.Key, Deleted: r.Deleted}
		if r.Found {
			switch state.OpKind(op.Op) {
			case state.OpPut, state.OpLock, state.OpUnlock: // the state does not send back what the caller has
				r.KV.Value, _ = oneValue(op.Value, op.ValueBase64) // checked by command
			}
			pair := pairOf(r.KV)
			one.Pair = &pair
		}
		if len(r.Tree) > 0 {
			one.Pairs = pairsOf(r.Tree)
		}
		out = append(out, one)
	}
	return out
}

func (b txnBody) command() (state.Txn, error) {
	if n := len(b.Compare) + len(b.Then) + len(b.Else); n > state.MaxTxnOps {
		return state.Txn{}, Errorf(CodeTooLarge, "%d compares and ops, the limit is %d", n, state.MaxTxnOps).
			WithHint("split the transaction")
	}
	var txn state.Txn
	for _, c := range b.Compare {
		compare, err := c.command()
		if err != nil {
			return state.Txn{}, err
		}
		txn.Compare = append(txn.Compare, compare)
	}
	var err error
	if txn.Then, err = txnOps(b.Then); err != nil {
		return state.Txn{}, err
	}
	txn.Else, err = txnOps(b.Else)
	return txn, err
}

func (c txnCompare) command() (state.Compare, error) {
	value, err := oneValue(c.Value, c.ValueBase64)
	if err != nil {
		return state.Compare{}, err
	}
	out := state.Compare{Key: c.Key, Target: state.Target(c.Target), Relation: state.Relation(c.Relation), Number: c.Number, Value: value}
	if out.Target == "" {
		out.Target = state.TargetRevision
	}
	if out.Relation == "" {
		out.Relation = state.Equal
	}
	return out, nil
}

func txnOps(ops []txnOp) ([]state.Op, error) {
	out := make([]state.Op, 0, len(ops))
	for _, op := range ops {
		value, err := oneValue(op.Value, op.ValueBase64)
		if err != nil {
			return nil, err
		}
		out = append(out, state.Op{Kind: state.OpKind(op.Op), Key: op.Key, Value: value, Flags: op.Flags, Compare: op.CAS, Session: op.Session})
	}
	return out, nil
}

func oneValue(text *string, binary []byte) ([]byte, error) {
	switch {
	case text == nil:
		return binary, nil
	case binary != nil:
		return nil, Errorf(CodeInvalid, "value and value_base64 together").WithHint("give one of them")
	}
	return []byte(*text), nil
}
