package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/parley-mesh/parley/api/wire"
)

const kvPath = "/parley/v1/kv"

// ReadOptions of Get. Index and Wait make it block until the key's revision exceeds Index, or Wait (at most 10
// minutes) is over.
type ReadOptions struct {
	Stale bool // the nearest copy, with or without a leader
	Index uint64
	Wait  time.Duration
}

// ListOptions of List and Keys.
type ListOptions struct {
	Stale bool
	Limit int // 0 is all; more than one answer holds is an error
}

// PutOptions of Put. CAS is the revision that the key must have, 0 for a key that must not exist. With Session the
// put takes the key's lock as well, or with Release lets go of it; CAS must then be nil. RequestID repeats the put that
// had it.
type PutOptions struct {
	CAS     *uint64
	Flags   uint64
	Session string
	Release bool

	RequestID string
}

// DeleteOptions of Delete; CAS and RequestID are those of PutOptions.
type DeleteOptions struct {
	CAS       *uint64
	RequestID string
}

// Written is the answer to a write. Deleted counts the keys that a delete removed, LockIndex how often the key's lock
// was taken, after a put with a session.
type Written struct {
	Key       string `json:"key"`
	Revision  uint64 `json:"revision"`
	Deleted   uint64 `json:"deleted,omitempty"`
	LockIndex uint64 `json:"lock_index,omitempty"`
}

// keyPath escapes everything, so that no part of a key is taken for a part of the path.
func keyPath(key string) string { return kvPath + "/" + url.PathEscape(key) }

// Get returns one key; a missing one is an *Error with the code not_found.
func (c *Client) Get(ctx context.Context, key string, o ReadOptions) (Pair, error) {
	if c.rpc != nil {
		return c.rpcGet(ctx, key, o)
	}
	query := url.Values{}
	if o.Stale {
		query.Set("stale", "")
	}
	if o.Index > 0 {
		uintParam(query, "index", o.Index)
		query.Set("wait", o.Wait.String())
	}
	var out Pair
	err := c.call(ctx, http.MethodGet, keyPath(key), query, nil, &out)
	return out, err
}

// List returns the keys that begin with prefix, in order, with their values.
func (c *Client) List(ctx context.Context, prefix string, o ListOptions) ([]Pair, error) {
	if c.rpc != nil && o.Limit >= 0 { // the agent refuses a negative one
		return c.rpcList(ctx, wire.Get{Key: prefix, Prefix: true, Stale: o.Stale, Limit: uint64(o.Limit)})
	}
	var out []Pair
	err := c.call(ctx, http.MethodGet, keyPath(prefix), o.query(), nil, &out)
	return out, err
}

// Keys is List without the values.
func (c *Client) Keys(ctx context.Context, prefix string, o ListOptions) ([]string, error) {
	query := o.query()
	query.Set("keys", "1")
	var out []string
	err := c.call(ctx, http.MethodGet, keyPath(prefix), query, nil, &out)
	return out, err
}

func (o ListOptions) query() url.Values {
	query := url.Values{"prefix": {"1"}}
	if o.Stale {
		query.Set("stale", "")
	}
	if o.Limit != 0 { // the agent refuses a negative one
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	return query
}

// Put writes a key.
func (c *Client) Put(ctx context.Context, key string, value []byte, o PutOptions) (Written, error) {
	if c.rpc != nil && !c.readOnly {
		return c.rpcPut(ctx, key, value, o)
	}
	query := url.Values{}
	if o.CAS != nil {
		uintParam(query, "cas", *o.CAS)
	}
	if o.Flags != 0 {
		uintParam(query, "flags", o.Flags)
	}
	if o.Session != "" {
		query.Set("session", o.Session)
	}
	if o.Release {
		query.Set("release", "1")
	}
	var out Written
	err := c.onceCall(ctx, o.RequestID, http.MethodPut, keyPath(key), query, value, &out)
	return out, err
}

// Delete removes a key; a missing one is an *Error with the code not_found.
func (c *Client) Delete(ctx context.Context, key string, o DeleteOptions) (Written, error) {
	if c.rpc != nil && !c.readOnly {
		return c.rpcDelete(ctx, o.RequestID, wire.Delete{Key: key, Compare: o.CAS})
	}
	query := url.Values{}
	if o.CAS != nil {
		uintParam(query, "cas", *o.CAS)
	}
	var out Written
	err := c.onceCall(ctx, o.RequestID, http.MethodDelete, keyPath(key), query, nil, &out)
	return out, err
}

// DeletePrefix removes all keys that begin with prefix; none is no error.
func (c *Client) DeletePrefix(ctx context.Context, prefix string) (Written, error) {
	if c.rpc != nil && !c.readOnly {
		return c.rpcDelete(ctx, "", wire.Delete{Key: prefix, Prefix: true})
	}
	var out Written
	err := c.onceCall(ctx, "", http.MethodDelete, keyPath(prefix), url.Values{"prefix": {"1"}}, nil, &out)
	return out, err
}

// Txn is done as one step: Then if every Compare holds, Else otherwise. Together they have at most 128 parts.
// RequestID is that of PutOptions.
type Txn struct {
	Compare []Compare `json:"compare,omitempty"`
	Then    []Op      `json:"then,omitempty"`
	Else    []Op      `json:"else,omitempty"`

	RequestID string `json:"-"`
}

// Compare compares what a key has with what is given. Target is revision (when empty), create_revision, version or
// value; Relation is = (when empty), !=, < or >. Number counts for the first three, ValueBase64 for value.
type Compare struct {
	Key         string `json:"key"`
	Target      string `json:"target,omitempty"`
	Relation    string `json:"relation,omitempty"`
	Number      uint64 `json:"number,omitempty"`
	ValueBase64 []byte `json:"value_base64,omitempty"`
}

// Op is one step: put, delete, delete_prefix, get, get_existing, get_tree, lock, unlock, check_revision, check_session
// or check_absent. Value is sent in base64, as it may be any bytes.
type Op struct {
	Op      string  `json:"op"`
	Key     string  `json:"key"`
	Value   []byte  `json:"value_base64,omitempty"`
	Flags   uint64  `json:"flags,omitempty"`
	CAS     *uint64 `json:"cas,omitempty"`
	Session string  `json:"session,omitempty"`
}

// TxnAnswer has one result for each op of the branch that ran.
type TxnAnswer struct {
	Succeeded bool       `json:"succeeded"`
	Revision  uint64     `json:"revision"`
	Results   []OpResult `json:"results"`
}

// OpResult is the row that an op leaves or looked at, nil if there is none, and how many keys a delete removed.
type OpResult struct {
	Op      string `json:"op"`
	Key     string `json:"key"`
	Pair    *Pair  `json:"pair,omitempty"`
	Pairs   []Pair `json:"pairs,omitempty"` // of a get_tree
	Deleted uint64 `json:"deleted"`
}

// Txn executes a transaction.
func (c *Client) Txn(ctx context.Context, txn Txn) (TxnAnswer, error) {
	var out TxnAnswer
	body, err := json.Marshal(txn)
	if err == nil {
		err = c.onceCall(ctx, txn.RequestID, http.MethodPost, "/parley/v1/txn", nil, body, &out)
	}
	return out, err
}
