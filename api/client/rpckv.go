package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/parley-mesh/parley/api/wire"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/transport"
)

// What is read and written most goes by methods of its own, without HTTP and JSON. A Client that may read only sends its
// writes by the endpoints, which know how to refuse them.

const codeNotFound = "not_found"

func pairOf(row wire.Row) Pair {
	stamp := clock.Stamp(row.ModifiedAt)
	return Pair{
		Key: row.Key, Value: row.Value, Flags: row.Flags, Revision: row.Revision, CreateRevision: row.CreateRevision,
		Version: row.Version, ModifiedAt: stamp.Wall(), ModifiedHLC: stamp.String(), Session: row.Session, LockIndex: row.LockIndex,
	}
}

// rows asks for keys.
func (c *Client) rows(ctx context.Context, q wire.Get) (wire.Rows, error) {
	raw, err := c.invoke(ctx, transport.PriorityRead, wire.MethodGet, false, q.Append(make([]byte, 0, 32+len(q.Key))))
	if err != nil {
		return wire.Rows{}, err
	}
	answer, failed, err := wire.ParseRows(raw)
	switch {
	case err != nil:
		return wire.Rows{}, c.unreadable(0, err)
	case failed != nil:
		return wire.Rows{}, c.failed(failed)
	}
	c.noteIndex(answer.Place.Index)
	return answer, nil
}

func (c *Client) rpcGet(ctx context.Context, key string, o ReadOptions) (Pair, error) {
	answer, err := c.rows(ctx, wire.Get{Key: key, Stale: o.Stale, MinRevision: o.Index, Wait: o.Wait})
	if err != nil {
		return Pair{}, err
	}
	if len(answer.Rows) == 0 {
		return Pair{}, &Error{
			Code: codeNotFound, Message: fmt.Sprintf("no key %q", key), Hint: "list what exists: parley kv list PREFIX",
			Status: http.StatusNotFound, exit: exitFailed,
		}
	}
	return pairOf(answer.Rows[0]), nil
}

func (c *Client) rpcList(ctx context.Context, q wire.Get) ([]Pair, error) {
	answer, err := c.rows(ctx, q)
	if err != nil {
		return nil, err
	}
	pairs := make([]Pair, len(answer.Rows))
	for i, row := range answer.Rows {
		pairs[i] = pairOf(row)
	}
	return pairs, nil
}

// write sends a write that carries its request id already.
func (c *Client) write(ctx context.Context, method, key string, body []byte, out *Written) error {
	return whenThereIsRoom(ctx, func() error { return c.writeOnce(ctx, method, key, body, out) })
}

func (c *Client) writeOnce(ctx context.Context, method, key string, body []byte, out *Written) error {
	raw, err := c.invoke(ctx, transport.PriorityWrite, method, true, body)
	if err != nil {
		return err
	}
	answer, failed, err := wire.ParseWritten(raw)
	switch {
	case err != nil:
		return c.unreadable(0, err)
	case failed != nil:
		return c.failed(failed)
	}
	c.noteIndex(answer.Place.Index)
	*out = Written{Key: key, Revision: answer.Revision, Deleted: answer.Deleted, LockIndex: answer.LockIndex}
	return nil
}

func (c *Client) rpcPut(ctx context.Context, key string, value []byte, o PutOptions) (out Written, err error) {
	put := wire.Put{Key: key, Value: value, Flags: o.Flags, Compare: o.CAS, Session: o.Session, Release: o.Release}
	err = c.once(ctx, o.RequestID, func(id requestID) error {
		put.Request = id
		return c.write(ctx, wire.MethodPut, key, put.Append(make([]byte, 0, put.Size())), &out)
	})
	return out, err
}

func (c *Client) rpcDelete(ctx context.Context, id string, d wire.Delete) (out Written, err error) {
	err = c.once(ctx, id, func(id requestID) error {
		d.Request = id
		return c.write(ctx, wire.MethodDelete, d.Key, d.Append(make([]byte, 0, 64+len(d.Key))), &out)
	})
	return out, err
}
