package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// History is what a key was, the newest version first, which is what it is. Since is 0 when nothing is missing; else what
// was before that revision is not kept any more.
type History struct {
	Key      string       `json:"key"`
	Since    uint64       `json:"since"`
	Versions []KeyVersion `json:"versions"`
}

// KeyVersion is a key as a write left it. A deletion has a key and a revision only.
type KeyVersion struct {
	Pair
	Deleted bool
}

type deletedJSON struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Deleted  bool   `json:"deleted"`
}

// MarshalJSON writes what the agent wrote.
func (v KeyVersion) MarshalJSON() ([]byte, error) {
	if v.Deleted {
		return json.Marshal(deletedJSON{Key: v.Key, Revision: v.Revision, Deleted: true})
	}
	return json.Marshal(struct {
		pairJSON
		Deleted bool `json:"deleted"`
	}{v.json(), false})
}

// UnmarshalJSON reads both forms.
func (v *KeyVersion) UnmarshalJSON(data []byte) error {
	var d deletedJSON
	if err := json.Unmarshal(data, &d); err != nil {
		return err
	}
	v.Deleted = d.Deleted
	return json.Unmarshal(data, &v.Pair)
}

// Undone is the answer to an undo: the revision that it made, the one that it took back, and the one whose value the key has
// again, 0 if it is deleted.
type Undone struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Undone   uint64 `json:"undone"`
	Restored uint64 `json:"restored"`
	Deleted  bool   `json:"deleted"`
}

// ownPath is the path of what is about a key and not below it.
func ownPath(what, key string) string {
	return strings.TrimSuffix(kvPath, "kv") + what + "/" + url.PathEscape(key)
}

// History lists the versions of a key; one without a trace is an *Error with the code not_found.
func (c *Client) History(ctx context.Context, key string, stale bool) (History, error) {
	query := url.Values{}
	if stale {
		query.Set("stale", "")
	}
	var out History
	err := c.call(ctx, http.MethodGet, ownPath("history", key), query, nil, &out)
	return out, err
}

// GetAt returns a key as it was when the state was at a revision; not_found when it did not exist or that is not known any
// more.
func (c *Client) GetAt(ctx context.Context, key string, revision uint64, stale bool) (Pair, error) {
	query := url.Values{}
	uintParam(query, "revision", revision)
	if stale {
		query.Set("stale", "")
	}
	var out Pair
	err := c.call(ctx, http.MethodGet, keyPath(key), query, nil, &out)
	return out, err
}

// Undo takes back the last write of a key, which must be of that revision: it has the value again that it had before, or is
// deleted if there was none. conflict when it was changed since, not_found when what was before is not kept any more.
// requestID is that of PutOptions.
func (c *Client) Undo(ctx context.Context, key string, revision uint64, requestID string) (Undone, error) {
	query := url.Values{}
	uintParam(query, "revision", revision)
	var out Undone
	err := c.onceCall(ctx, requestID, http.MethodPost, ownPath("undo", key), query, nil, &out)
	return out, err
}

// Purge forgets what a key was before, and returns how many versions there were. What it is stays.
func (c *Client) Purge(ctx context.Context, key string) (versions uint64, err error) {
	var out struct {
		Purged uint64 `json:"purged"`
	}
	err = c.onceCall(ctx, "", http.MethodDelete, ownPath("history", key), nil, nil, &out)
	return out.Purged, err
}
