package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

const (
	methodSums = "state.sums"
	methodRows = "state.rows"

	// sumSamples is how often the buckets of two members are compared: those that only differ because a write is on
	// its way to one of them do not differ each time.
	sumSamples       = 3
	maxBucketsLooked = 8    // of those that differ
	maxBucketRows    = 2048 // of one bucket, with keys of any length within one answer
	maxDifferences   = 16   // rows that a comparison names
	locateTimeout    = 5 * time.Second
)

// rowMark is a state.RowMark on the wire.
type rowMark struct {
	Table    state.Table `json:"t"`
	Key      []byte      `json:"k"`
	Revision uint64      `json:"r"`
	Hash     [32]byte    `json:"h"`
}

// bucketRows are the rows of one bucket, as of a revision.
type bucketRows struct {
	Revision uint64    `json:"revision"`
	Rows     []rowMark `json:"rows"`
}

// locator asks core members for what it takes to find the rows that differ. The tests replace it.
type locator struct {
	sums func(ctx context.Context, node string) ([]byte, error)
	rows func(ctx context.Context, node string, bucket int) (bucketRows, error)
}

// compareAndLocate compares the core members, and looks for the rows in which the minority differs. Only core members
// tell each other about rows; asked of another agent, the comparison names members alone.
func (a *Agent) compareAndLocate(ctx context.Context) (api.DigestComparison, error) {
	found, err := a.compareDigests(ctx)
	if err != nil || found.Groups < 2 || a.core.member() == nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	found.Differences = locator{sums: a.askSums, rows: a.askRowMarks}.locate(ctx, found)
	return found, nil
}

// locate compares each member of the minority with one that is not in it, or, without a majority, with the first. What
// cannot be found out in time is left out: the members are named already.
func (l locator) locate(ctx context.Context, found api.DigestComparison) (out []api.RowDifference) {
	reference := referenceOf(found, "")
	for _, m := range found.Minority {
		if m == reference {
			continue
		}
		pairs, _, _ := l.differ(ctx, reference, m, maxBucketsLooked, maxDifferences)
		for _, p := range pairs {
			out = append(out, api.RowDifference{Member: m, Table: p.table.String(), Key: printableKey(p.key)})
		}
	}
	return out[:min(len(out), maxDifferences)]
}

// referenceOf is a member of the majority, or, without one, the first; not is not chosen.
func referenceOf(found api.DigestComparison, not string) (reference string) {
	for _, m := range found.Members {
		if m.Name == not {
			continue
		}
		if !slices.Contains(found.Minority, m.Name) {
			return m.Name
		}
		if reference == "" {
			reference = m.Name
		}
	}
	return reference
}

// rowPair is a row in which two members differ. One of the marks is nil where there is no such row.
type rowPair struct {
	table          state.Table
	key            string
	reference, own *state.RowMark
}

// differ finds the rows in which a member differs from a reference, in at most so many buckets and at most so many rows. more
// says that there are more than these.
func (l locator) differ(ctx context.Context, reference, member string, buckets, rows int) (pairs []rowPair, more bool, err error) {
	differing, err := l.differingBuckets(ctx, reference, member)
	if err != nil {
		return nil, false, err
	}
	more = len(differing) > buckets
	for _, bucket := range differing[:min(len(differing), buckets)] {
		found, whole, err := l.inBucket(ctx, reference, member, bucket)
		if err != nil {
			return pairs, true, err
		}
		pairs, more = append(pairs, found...), more || !whole
		if len(pairs) > rows {
			return pairs[:rows], true, nil
		}
	}
	return pairs, more, nil
}

// differingBuckets are those that differ in each of a few samples.
func (l locator) differingBuckets(ctx context.Context, reference, member string) (buckets []int, err error) {
	const size = 32
	for sample := range sumSamples {
		good, err := l.sums(ctx, reference)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", reference, err)
		}
		bad, err := l.sums(ctx, member)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", member, err)
		}
		if len(good) != len(bad) || len(good) != size*state.DigestBuckets {
			return nil, fmt.Errorf("%s and %s tell %d and %d bytes of sums", reference, member, len(good), len(bad))
		}
		var different []int
		for i := range state.DigestBuckets {
			if string(good[size*i:size*(i+1)]) != string(bad[size*i:size*(i+1)]) && (sample == 0 || slices.Contains(buckets, i)) {
				different = append(different, i)
			}
		}
		buckets = different
	}
	return buckets, nil
}

// inBucket compares the rows of one bucket. Not whole: it has too many.
func (l locator) inBucket(ctx context.Context, reference, member string, bucket int) (pairs []rowPair, whole bool, err error) {
	a, err := l.rows(ctx, reference, bucket)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", reference, err)
	}
	b, err := l.rows(ctx, member, bucket)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", member, err)
	}
	if len(a.Rows) >= maxBucketRows || len(b.Rows) >= maxBucketRows {
		return nil, false, nil
	}
	older, newer := a, b
	if a.Revision > b.Revision {
		older, newer = b, a
	}
	for _, m := range state.DifferentRows(older.marks(), newer.marks(), older.Revision, a.Revision == b.Revision) {
		pairs = append(pairs, rowPair{table: m.Table, key: m.Key, reference: a.mark(m.Table, m.Key), own: b.mark(m.Table, m.Key)})
	}
	return pairs, true, nil
}

// mark is that of one row, nil if there is none.
func (b bucketRows) mark(table state.Table, key string) *state.RowMark {
	for _, m := range b.marks() {
		if m.Table == table && m.Key == key {
			return &m
		}
	}
	return nil
}

func (b bucketRows) marks() (marks []state.RowMark) {
	for _, r := range b.Rows {
		marks = append(marks, state.RowMark{Table: r.Table, Key: string(r.Key), Revision: r.Revision, Hash: r.Hash})
	}
	return marks
}

// printableKey is a key as people read it: some tables have numbers for keys.
func printableKey(key string) string {
	for _, c := range key {
		if c < ' ' || c == utf8.RuneError {
			return fmt.Sprintf("0x%x", key)
		}
	}
	return key
}

// serveSums gives a core member the sum of each bucket of the state.
func (a *Agent) serveSums(context.Context, transport.Peer, []byte) ([]byte, error) {
	return a.ownSums()
}

func (a *Agent) ownSums() ([]byte, error) {
	v, err := a.wholeView()
	if err != nil {
		return nil, err
	}
	sums := make([]byte, 0, 32*state.DigestBuckets)
	for _, sum := range v.Buckets() {
		sums = append(sums, sum[:]...)
	}
	return sums, nil
}

// wholeView is the View while it holds all classes.
func (a *Agent) wholeView() (*state.View, error) {
	if !a.views.ownLog() {
		return nil, &transport.Error{Code: api.CodeUnavailable, Message: "this agent does not hold the whole state"}
	}
	return a.hub.View(), nil
}

// serveRows gives a core member the marks of the rows of one bucket.
func (a *Agent) serveRows(_ context.Context, _ transport.Peer, body []byte) ([]byte, error) {
	if len(body) != 2 || int(binary.BigEndian.Uint16(body)) >= state.DigestBuckets {
		return nil, &transport.Error{Code: api.CodeInvalid, Message: "rows are asked for by a bucket of 2 bytes"}
	}
	rows, err := a.ownRowMarks(int(binary.BigEndian.Uint16(body)))
	if err != nil {
		return nil, err
	}
	return json.Marshal(rows)
}

func (a *Agent) ownRowMarks(bucket int) (bucketRows, error) {
	v, err := a.wholeView()
	if err != nil {
		return bucketRows{}, err
	}
	out := bucketRows{Revision: v.Revision()}
	for _, m := range v.BucketRows([]int{bucket}, maxBucketRows) {
		out.Rows = append(out.Rows, rowMark{Table: m.Table, Key: []byte(m.Key), Revision: m.Revision, Hash: m.Hash})
	}
	return out, nil
}

func (a *Agent) askSums(ctx context.Context, node string) ([]byte, error) {
	if node == a.ids.Node {
		return a.ownSums()
	}
	return a.pool.Call(ctx, node, methodSums, nil)
}

func (a *Agent) askRowMarks(ctx context.Context, node string, bucket int) (rows bucketRows, err error) {
	if node == a.ids.Node {
		return a.ownRowMarks(bucket)
	}
	raw, err := a.pool.Call(ctx, node, methodRows, binary.BigEndian.AppendUint16(nil, uint16(bucket))) //nolint:gosec // below DigestBuckets
	if err != nil {
		return rows, err
	}
	return rows, json.Unmarshal(raw, &rows)
}
