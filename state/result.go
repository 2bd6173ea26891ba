package state

import (
	"encoding/binary"
	"fmt"
)

// A Code says how a command ended. CodeOK is the empty string.
type Code string

const (
	CodeOK       Code = ""
	CodeNotFound Code = "not_found" // no such key, node, token or Raft id
	CodeConflict Code = "conflict"  // a compare did not hold, or a retry differs from the original
	CodeInvalid  Code = "invalid"   // it could never be done
	CodeExists   Code = "exists"    // the name or id is taken
	CodeExpired  Code = "expired"   // the token expired
	CodeUsed     Code = "used"      // the token has no uses left
	CodeRevoked  Code = "revoked"   // the token was revoked
	CodeDenied   Code = "denied"    // the token or the missing grant does not allow it
	CodeLimit    Code = "limit"     // a limit would be passed

	CodeReused    Code = "reused"    // the request id belongs to another command
	CodeForgotten Code = "forgotten" // the request may have been done, and its answer is not known any more

	CodeQuarantined Code = "quarantined" // replicas crashed on it: it was left out on all of them
)

// codes is in the order of their numbers on the wire.
var codes = []Code{
	CodeOK, CodeNotFound, CodeConflict, CodeInvalid, CodeExists, CodeExpired, CodeUsed,
	CodeRevoked, CodeDenied, CodeLimit, CodeReused, CodeForgotten,
	CodeQuarantined,
}

// Result is the answer to a command. Revision is the state's after it: that of the change if the
// command made one. Message is for people and empty if Code is.
type Result struct {
	Code     Code
	Message  string
	Revision uint64
	Body     []byte
}

// maxMessageBytes bounds Message, which may quote a key.
const maxMessageBytes = 8 << 10

// EncodeResult returns the result's bytes.
func EncodeResult(r Result) []byte { return r.append(make([]byte, 0, r.size())) }

// size is how many bytes the result takes.
func (r *Result) size() int {
	return 1 + sizeUvarint(r.Revision) + sizeBytes(len(r.Message)) + len(r.Body)
}

func (r *Result) append(b []byte) []byte {
	b = appendWord(b, codes, r.Code)
	b = binary.AppendUvarint(b, r.Revision)
	b = appendString(b, r.Message)
	return append(b, r.Body...)
}

// DecodeResult reads what EncodeResult wrote. The error is ErrMalformed, wrapped.
func DecodeResult(b []byte) (Result, error) {
	r := &reader{b: b}
	out := Result{Code: readWord(r, codes, "code"), Revision: r.uvarint()}
	out.Message = r.string(maxMessageBytes, "message")
	if len(r.b) > 0 {
		out.Body = r.b
	}
	return out, r.err
}

// Number returns the number that the result carries: the Raft id of a CoreAssign, the count of a
// DeletePrefix. It is 0 for other results.
func (r Result) Number() uint64 {
	rd := &reader{b: r.Body}
	n := rd.uvarint()
	if rd.done() != nil {
		return 0
	}
	return n
}

func refuse(code Code, format string, args ...any) Result {
	return Result{Code: code, Message: fmt.Sprintf(format, args...)}
}

func number(n uint64) Result { return Result{Body: binary.AppendUvarint(nil, n)} }

// TxnAnswer is the Body of a transaction's result. Results has one element for each op of the
// branch that ran; it is empty when the transaction was refused, and Errors then names the ops that
// could not be done, in order.
type TxnAnswer struct {
	Succeeded bool // the compares held, so Then was meant to run
	Errors    []OpError
	Results   []OpResult
}

// OpError says why an op could not be done. Those behind the first one saw what the ops before
// them did, as if they had all been done.
type OpError struct {
	Op      int // its place in the branch
	Code    Code
	Message string
}

// OpResult is one op's answer: the row of a get, put, lock, unlock or check, the rows of a
// get_tree, the count of the deletes, what a get or set of the catalog found or made.
type OpResult struct {
	Found   bool
	KV      KV
	Tree    []KV
	Deleted uint64
	Node    *CatalogNode
	Service *CatalogService
	Check   *CatalogCheck
}

func encodeTxnAnswer(a TxnAnswer) []byte {
	b := appendBool(nil, a.Succeeded)
	b = binary.AppendUvarint(b, uint64(len(a.Errors)))
	for _, e := range a.Errors {
		b = binary.AppendUvarint(b, uint64(e.Op))
		b = appendWord(b, codes, e.Code)
		b = appendString(b, e.Message)
	}
	b = binary.AppendUvarint(b, uint64(len(a.Results)))
	for _, r := range a.Results {
		b = binary.AppendUvarint(b, r.Deleted)
		b = appendBool(b, r.Found)
		if r.Found {
			b = appendAnswerKV(b, r.KV)
		}
		b = binary.AppendUvarint(b, uint64(len(r.Tree)))
		for _, kv := range r.Tree {
			b = appendAnswerKV(b, kv)
		}
		b = r.appendCatalog(b)
	}
	return b
}

func appendAnswerKV(b []byte, kv KV) []byte {
	b = binary.AppendUvarint(appendString(b, kv.Key), kv.ModRevision)
	return appendBytes(b, encodeKV(kv))
}

func readAnswerKV(r *reader) KV {
	key, revision := r.string(MaxKeyBytes, "key"), r.uvarint()
	row := r.bytes(maxRowBytes, "row")
	if r.err != nil {
		return KV{}
	}
	kv, err := decodeKV(key, revision, row)
	if err != nil {
		r.err = err
	}
	return kv
}

// DecodeTxnAnswer reads the Body of a transaction's result. The error is ErrMalformed, wrapped.
func DecodeTxnAnswer(body []byte) (TxnAnswer, error) {
	r := &reader{b: body}
	a := TxnAnswer{Succeeded: r.bool("succeeded")}
	for range r.count(MaxTxnOps, "errors") {
		a.Errors = append(a.Errors, OpError{
			Op: readInt(r, "op"), Code: readWord(r, codes, "code"), Message: r.string(maxMessageBytes, "message"),
		})
	}
	for range r.count(MaxTxnOps, "results") {
		op := OpResult{Deleted: r.uvarint(), Found: r.bool("found")}
		if op.Found {
			op.KV = readAnswerKV(r)
		}
		for range r.count(MaxTxnAnswer/treeRowBytes, "rows") {
			op.Tree = append(op.Tree, readAnswerKV(r))
		}
		op.readCatalog(r)
		if r.err != nil {
			break
		}
		a.Results = append(a.Results, op)
	}
	return a, r.done()
}
