package api

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

const (
	maxWait     = 10 * time.Minute // longest blocking read
	forwardWait = 30 * time.Second // longest part of it that one question to another agent may take
	maxRows     = 16384            // rows of one answer
	rowOverhead = 96               // bytes counted for a row besides its key and value
)

// Consistency is how fresh an answer must be.
type Consistency uint8

const (
	// Default is linearizable for key/value.
	Default Consistency = iota
	// Linearizable answers contain every write that was acknowledged before the read began.
	Linearizable
	// Stale answers come from the nearest copy, with or without a leader.
	Stale
)

// KVQuery is one read: of Key alone, or of all keys that begin with it.
type KVQuery struct {
	Key         string
	Prefix      bool
	KeysOnly    bool // leave the values out
	Consistency Consistency
	// MinRevision and Wait make a blocking read: it answers when the revision of what is read exceeds MinRevision,
	// or as things are after Wait (at most 10 minutes).
	MinRevision uint64
	Wait        time.Duration
	// Limit cuts a prefix after so many rows. Without it an answer that is too large is an error, never cut.
	Limit int
}

// KVAnswer is what a read found, in key order. Revision is that of the thing read, which is what a blocking read
// compares with; Index, Term and Stamp place the View in the log, Node says whose View it was.
type KVAnswer struct {
	Rows        []state.KV
	Revision    uint64
	Index, Term uint64
	Stamp       clock.Stamp
	Node        string
}

// errNoKV is internal to a read: this agent's View stopped to hold key/value, ask the leader instead.
var errNoKV = errors.New("no key/value here")

// Read answers q for caller, from this agent's View when it holds key/value and from the leader's (for stale reads:
// any core member's) otherwise. Errors are *Error; a missing key is no error but an answer without rows.
func (s *Service) Read(ctx context.Context, caller Caller, q KVQuery) (KVAnswer, error) {
	if q.MinRevision > 0 && q.Wait > 0 {
		who := caller.identity()
		if !s.watches.acquire(who) {
			return KVAnswer{}, Errorf(CodeTooMany, "%d watches are open for this caller", s.watches.each)
		}
		defer s.watches.release(who)
	}
	return s.readCounted(ctx, caller, q)
}

// readCounted is Read for a caller whose watch is counted already.
func (s *Service) readCounted(ctx context.Context, caller Caller, q KVQuery) (KVAnswer, error) {
	if err := allow(caller, policy.KVRead); err != nil {
		return KVAnswer{}, err
	}
	if err := checkQuery(&q); err != nil {
		return KVAnswer{}, err
	}
	ctx, cancel := within(ctx, s.options.OpTimeout+q.Wait)
	defer cancel()
	answer, err := s.read(ctx, caller, q)
	if err != nil {
		return KVAnswer{}, AsError(err)
	}
	return answer, nil
}

func checkQuery(q *KVQuery) *Error {
	switch {
	case q.Key == "" && !q.Prefix:
		return Errorf(CodeInvalid, "the key is empty").WithHint("name a key, or read all keys with ?prefix=1")
	case len(q.Key) > state.MaxKeyBytes:
		return Errorf(CodeTooLarge, "the key has %d bytes, the limit is %d", len(q.Key), state.MaxKeyBytes)
	case !utf8.ValidString(q.Key):
		return Errorf(CodeInvalid, "the key %.80q is not UTF-8", q.Key).WithHint("write its bytes as text, such as hex")
	}
	q.Wait = min(max(q.Wait, 0), maxWait)
	return nil
}

func (s *Service) read(ctx context.Context, caller Caller, q KVQuery) (KVAnswer, error) {
	if s.local.HoldsKV() {
		answer, err := s.readLocal(ctx, q)
		if !errors.Is(err, errNoKV) {
			return answer, err
		}
	}
	return s.readRemote(ctx, caller, q)
}

func (s *Service) readLocal(ctx context.Context, q KVQuery) (KVAnswer, error) {
	if q.Consistency != Stale {
		if err := s.catchUp(ctx); err != nil {
			return KVAnswer{}, err
		}
	}
	return s.answerHere(ctx, q)
}

// catchUp waits until the View contains all that was acknowledged when it was called.
func (s *Service) catchUp(ctx context.Context) error {
	index, err := s.readIndex(ctx)
	if err != nil {
		return err
	}
	return hubError(s.local.Hub.WaitFor(ctx, index))
}

// readIndex asks consensus directly while this agent leads, which shares rounds itself, and the leader otherwise.
func (s *Service) readIndex(ctx context.Context) (uint64, error) {
	if _, self, _ := s.local.Leader(); self {
		index, err := s.local.ReadIndex(ctx)
		if failed := AsError(err); failed == nil || !surelyNotProposed(failed) {
			return index, err
		}
	}
	index, failed := s.barrier.wait(ctx, s.askReadIndex)
	if failed != nil {
		return 0, failed
	}
	return index, nil
}

// answerHere waits as q says and reads the View.
func (s *Service) answerHere(ctx context.Context, q KVQuery) (KVAnswer, error) {
	view, err := s.viewAfter(ctx, selector(q), q.MinRevision, q.Wait)
	if err != nil {
		return KVAnswer{}, err
	}
	return s.answerFrom(view, q)
}

// viewAfter is the View with key/value once what sel names has changed after the revision, or as it is when wait is
// over; at once without revision or wait.
func (s *Service) viewAfter(ctx context.Context, sel watch.Selector, after uint64, wait time.Duration) (*state.View, error) {
	view := s.local.Hub.View()
	if after > 0 && wait > 0 {
		waited, cancel := context.WithTimeout(ctx, wait)
		woken, err := s.local.Hub.Wait(waited, sel, after)
		cancel()
		switch {
		case err == nil:
			view = woken
		case ctx.Err() != nil || waited.Err() == nil:
			return nil, hubError(err)
		default:
			view = s.local.Hub.View()
		}
	}
	if !view.Holds(state.ClassKV) {
		return nil, errNoKV // this agent has just left the core, or not quite joined it
	}
	return view, nil
}

// hubError gives what the watch hub says its place in the table.
func hubError(err error) error {
	switch {
	case errors.Is(err, watch.ErrTooMany):
		return Errorf(CodeBusy, "the agent has no room for another watch")
	case errors.Is(err, watch.ErrStopped):
		return Errorf(CodeUnavailable, "the agent is stopping")
	}
	return err
}

func selector(q KVQuery) watch.Selector {
	return watch.Selector{Key: q.Key, Prefix: q.Prefix}
}

func (s *Service) answerFrom(view *state.View, q KVQuery) (KVAnswer, error) {
	answer := KVAnswer{Index: view.Index(), Term: view.Term(), Stamp: view.Stamp(), Node: s.local.Node}
	if !q.Prefix {
		row, ok := view.Get(q.Key)
		if !ok {
			answer.Revision = view.KeyRevision(q.Key)
			return answer, nil
		}
		answer.Revision, answer.Rows = row.ModRevision, []state.KV{row}
		return answer, nil
	}
	answer.Revision = view.PrefixRevision(q.Key)
	var failed *Error
	size, limit := 0, q.Limit
	view.Scan(q.Key, func(row state.KV) bool {
		if q.KeysOnly {
			row.Value = nil
		}
		size += len(row.Key) + len(row.Value) + rowOverhead
		if size > maxAnswer || len(answer.Rows) == maxRows {
			failed = Errorf(CodeTooLarge, "the keys that begin with %q are more than one answer holds (%d rows, %d bytes)", q.Key, maxRows, maxAnswer)
			return false
		}
		answer.Rows = append(answer.Rows, row)
		return limit <= 0 || len(answer.Rows) < limit
	})
	if failed != nil {
		return KVAnswer{}, failed
	}
	return answer, nil
}

// readRemote asks the agent that has the data. A long wait is asked for in parts, so that a reader that went away
// never leaves a waiter behind for longer than forwardWait.
func (s *Service) readRemote(ctx context.Context, caller Caller, q KVQuery) (KVAnswer, error) {
	part := q
	for left := q.Wait; ; left -= part.Wait {
		part.Wait = min(left, forwardWait)
		answer, err := s.askRead(ctx, caller, part)
		if err != nil || q.MinRevision == 0 || answer.Revision > q.MinRevision || left <= forwardWait {
			return answer, err
		}
	}
}

func (s *Service) askRead(ctx context.Context, caller Caller, q KVQuery) (KVAnswer, error) {
	body := appendRead(nil, readRequest{role: caller.Role, kind: caller.Kind, name: s.callerName(caller), query: q})
	var answer KVAnswer
	err := s.askHolder(ctx, q.Consistency == Stale, func(node string, self bool) (failed *Error) {
		if self { // this agent came to lead while it asked
			answer, failed = s.leaderAnswer(ctx, q)
		} else {
			answer, failed = s.askOne(ctx, node, body)
		}
		return failed
	})
	return answer, err
}

// askHolder asks an agent that holds key/value: the leader, or for a stale read any.
func (s *Service) askHolder(ctx context.Context, stale bool, ask func(node string, self bool) *Error) error {
	if stale {
		return s.askAnyCore(ask)
	}
	return s.withLeader(ctx, ask)
}

// leaderAnswer is a linearizable answer of this agent, or not_leader.
func (s *Service) leaderAnswer(ctx context.Context, q KVQuery) (KVAnswer, *Error) {
	if err := s.leadHere(ctx); err != nil {
		return KVAnswer{}, err
	}
	return s.staleAnswer(ctx, q)
}

// staleAnswer is what the View holds now, or not_leader when it holds no key/value.
func (s *Service) staleAnswer(ctx context.Context, q KVQuery) (KVAnswer, *Error) {
	answer, err := s.answerHere(ctx, q)
	if errors.Is(err, errNoKV) {
		return KVAnswer{}, Errorf(CodeNotLeader, "agent %s holds no key/value", s.local.Node)
	}
	return answer, AsError(err)
}

func (s *Service) askOne(ctx context.Context, node string, body []byte) (KVAnswer, *Error) {
	return s.askAnswer(ctx, node, methodRead, body)
}

func (s *Service) askAnswer(ctx context.Context, node, method string, body []byte) (KVAnswer, *Error) {
	raw, err := s.local.Call(ctx, node, method, body)
	if err != nil {
		return KVAnswer{}, asReadError(err)
	}
	answer, err := parseAnswer(raw)
	if err != nil {
		return KVAnswer{}, Errorf(CodeInternal, "answer of %s: %v", node, err)
	}
	return answer, nil
}

// askAnyCore tries each live core member once; a stale read needs no leader.
func (s *Service) askAnyCore(ask func(node string, self bool) *Error) error {
	last := Errorf(CodeUnavailable, "no core member is alive")
	for _, node := range s.local.CoreNodes() {
		if node == s.local.Node {
			continue
		}
		err := ask(node, false)
		if err == nil {
			return nil
		}
		if last = err; !surelyNotProposed(err) {
			break
		}
	}
	return last
}
