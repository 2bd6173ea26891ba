package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	maxLineBytes   = 4 << 20          // one event: a value of 512 KiB, escaped
	silenceLimit   = 45 * time.Second // three heartbeats without a word: the agent is gone
	reconnectFirst = 100 * time.Millisecond
	reconnectLast  = 5 * time.Second
	eventPut       = "put"
	eventDelete    = "delete"
	eventReady     = "ready"
	eventError     = "error"
	contentStream  = "text/event-stream"
)

// Event is one change. Type is put (Pair is set), delete, or ready: all that existed was reported.
type Event struct {
	Type     string
	Key      string
	Revision uint64
	Pair     *Pair
}

// errAgentStopped is a stream that ended without an error event.
var errAgentStopped = errors.New("the stream ended")

// Watch calls each with what exists and then with every change to key, or with prefix to all keys that begin with it,
// until ctx ends, each returns an error (which Watch returns), or the agent refuses for good. Changes that follow each
// other fast may come as one. It reconnects by itself, and then reports only what changed in between: keys deleted
// meanwhile are reported as deleted, and ready is not repeated.
func (c *Client) Watch(ctx context.Context, key string, prefix bool, each func(Event) error) error {
	w := &watcher{client: c, key: key, prefix: prefix, each: each, known: map[string]uint64{}}
	pause := reconnectFirst
	for {
		greeted, err := w.run(ctx)
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		if ctx.Err() != nil {
			return c.unanswered(false, ctx.Err())
		}
		var refused *Error
		if errors.As(err, &refused) && (!refused.Retryable || refused.Code == CodeNoAgent && !w.ready) {
			return refused
		}
		if greeted {
			pause = reconnectFirst
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return c.unanswered(false, ctx.Err())
		}
		pause = min(2*pause, reconnectLast)
	}
}

// stopError carries the callback's own error through a run.
type stopError struct{ err error }

func (s *stopError) Error() string { return s.err.Error() }

// watcher outlives its connections; known is what the callback has been told.
type watcher struct {
	client *Client
	key    string
	prefix bool
	each   func(Event) error
	known  map[string]uint64 // revision by key
	ready  bool              // reported once
}

// run is one connection. greeted says that it got as far as its first events.
func (w *watcher) run(ctx context.Context) (greeted bool, err error) {
	if w.client.rpc != nil {
		return w.runRPC(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(silenceLimit, cancel)
	defer silence.Stop()
	query := url.Values{"watch": {"1"}}
	if w.prefix {
		query.Set("prefix", "1")
	}
	response, err := w.client.send(ctx, "", http.MethodGet, keyPath(w.key), query, nil)
	if err != nil {
		return false, w.client.unanswered(false, err)
	}
	defer func() { _ = response.Body.Close() }() // only read
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 4096), maxLineBytes)
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != contentStream {
		lines.Scan()
		return false, answered(response.StatusCode, lines.Bytes())
	}
	seen := map[string]bool{} // keys of this connection, until it is ready
	name := ""
	for lines.Scan() {
		silence.Reset(silenceLimit)
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "event: "); ok {
			name = rest
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := w.event(name, []byte(data), &seen); err != nil {
				return true, err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return true, w.client.unanswered(false, err)
	}
	return true, errAgentStopped
}

func (w *watcher) event(name string, data []byte, seen *map[string]bool) error {
	switch name {
	case eventPut:
		return w.put(data, *seen)
	case eventDelete, eventReady:
		var body struct {
			Key      string `json:"key"`
			Revision uint64 `json:"revision"`
		}
		if err := json.Unmarshal(data, &body); err != nil {
			return unreadable(err)
		}
		if name == eventDelete {
			return w.gone(body.Key, body.Revision)
		}
		err := w.caughtUp(*seen, body.Revision)
		*seen = nil
		return err
	case eventError:
		var body errorBody
		if err := json.Unmarshal(data, &body); err != nil {
			return unreadable(err)
		}
		return body.as(http.StatusOK)
	}
	return nil // of a later version
}

func (w *watcher) put(data []byte, seen map[string]bool) error {
	var pair Pair
	if err := json.Unmarshal(data, &pair); err != nil {
		return unreadable(err)
	}
	return w.show(pair, seen)
}

func (w *watcher) show(pair Pair, seen map[string]bool) error {
	if seen != nil {
		seen[pair.Key] = true
	}
	if w.known[pair.Key] == pair.Revision {
		return nil // told over an earlier connection
	}
	w.known[pair.Key] = pair.Revision
	return w.tell(Event{Type: eventPut, Key: pair.Key, Revision: pair.Revision, Pair: &pair})
}

func (w *watcher) gone(key string, revision uint64) error {
	if _, ok := w.known[key]; !ok {
		return nil
	}
	delete(w.known, key)
	return w.tell(Event{Type: eventDelete, Key: key, Revision: revision})
}

// caughtUp reports what was deleted while there was no connection.
func (w *watcher) caughtUp(seen map[string]bool, revision uint64) error {
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if seen[key] {
			continue
		}
		if err := w.gone(key, revision); err != nil {
			return err
		}
	}
	if w.ready {
		return nil
	}
	w.ready = true
	return w.tell(Event{Type: eventReady, Revision: revision})
}

func (w *watcher) tell(e Event) error {
	if err := w.each(e); err != nil {
		return &stopError{err}
	}
	return nil
}

func unreadable(err error) *Error {
	return &Error{
		Code: CodeUnreadable, exit: exitFailed, cause: err, Message: fmt.Sprintf("an event is not the JSON of an agent: %v", err),
		Hint: "check that client and agent are of compatible versions",
	}
}
