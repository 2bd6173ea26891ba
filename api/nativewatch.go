package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

const (
	heartbeatEvery = 15 * time.Second
	eventTimeout   = 30 * time.Second // for a reader to take one batch of events
)

// deletedEvent is the data of event: delete.
type deletedEvent struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
}

// readyEvent is the data of event: ready, which ends the first batch: everything that exists was sent, so that a key
// which a reconnecting client still knows and did not hear of is gone.
type readyEvent struct {
	Revision uint64 `json:"revision"`
}

// watchStream turns the level-triggered view of a key or prefix into events. It remembers the revision of each key
// that it reported and sends the difference, so any number of changes between two looks cost one event a key. It is
// bounded as an answer is (maxRows).
type watchStream struct {
	x     *Exchange
	known map[string]uint64 // revision last sent, by key
}

// serveWatch streams put, delete and ready events until the caller leaves. A comment line every 15 seconds shows that
// the stream is alive.
func serveWatch(x *Exchange, q KVQuery) error {
	if q.MinRevision != 0 || q.Wait != 0 || q.Limit != 0 || q.KeysOnly {
		return Errorf(CodeInvalid, "a stream takes no index, wait, limit or keys").
			WithHint("a new stream begins with everything that exists, then says ready")
	}
	who := x.Caller.identity()
	if !x.service.watches.acquire(who) {
		return Errorf(CodeTooMany, "%d watches are open for this caller", x.service.watches.each)
	}
	defer x.service.watches.release(who)
	w := &watchStream{x: x, known: map[string]uint64{}}
	answer, err := x.service.Read(x.Context(), x.Caller, q)
	if err != nil {
		return err
	}
	x.read(answer)
	w.start()
	w.batch(answer)
	w.event("ready", readyEvent{Revision: answer.Revision})
	w.follow(q, answer.Revision)
	return nil
}

// follow ends with the caller, or with an error that becomes the last event: the status line is long sent.
func (w *watchStream) follow(q KVQuery, revision uint64) {
	q.Wait = heartbeatEvery
	for w.flush() == nil {
		q.MinRevision = max(revision, 1)
		answer, err := w.x.service.readCounted(w.x.Context(), w.x.Caller, q)
		switch {
		case err != nil:
			w.event("error", nativeBody(w.x, AsError(err)))
			_ = w.flush() // the caller may have left
			return
		case !w.batch(answer):
			// Nothing to say. The revision may have moved all the same: that of a missing key is the table's.
			w.comment("alive")
		}
		revision = answer.Revision
	}
}

func (w *watchStream) start() {
	h := w.x.W.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.x.Head(http.StatusOK)
}

// batch sends what differs from what the caller knows, and reports whether anything did.
func (w *watchStream) batch(answer KVAnswer) (news bool) {
	present := make(map[string]bool, len(answer.Rows))
	for _, row := range answer.Rows {
		present[row.Key] = true
		if w.known[row.Key] != row.ModRevision {
			w.known[row.Key], news = row.ModRevision, true
			w.event("put", pairOf(row))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if !present[key] {
			delete(w.known, key)
			news = true
			w.event("delete", deletedEvent{Key: key, Revision: answer.Revision})
		}
	}
	return news
}

// event writes one event; id lets a reader see the revision without parsing data. Errors show in flush.
func (w *watchStream) event(name string, data any) {
	body, err := json.Marshal(data)
	if err != nil {
		return // our own shapes always encode
	}
	w.deadline()
	_, _ = fmt.Fprintf(w.x.W, "event: %s\ndata: %s\n\n", name, body)
}

func (w *watchStream) comment(text string) {
	w.deadline()
	_, _ = fmt.Fprintf(w.x.W, ": %s\n\n", text)
}

// deadline replaces the server's for whole responses: a stream may last for ever, a single write may not.
func (w *watchStream) deadline() {
	_ = http.NewResponseController(w.x.W).SetWriteDeadline(time.Now().Add(eventTimeout)) // unsupported outside a real connection
}

func (w *watchStream) flush() error {
	return http.NewResponseController(w.x.W).Flush()
}
