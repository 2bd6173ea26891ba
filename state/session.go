package state

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-mesh/parley/clock"
)

// A SessionID names a session. Its text is that of a UUID.
type SessionID [16]byte

// String returns the text, in lower case.
func (id SessionID) String() string {
	b := make([]byte, 0, 36)
	for i, part := range [][]byte{id[0:4], id[4:6], id[6:8], id[8:10], id[10:16]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return string(b)
}

// ParseSessionID reads the text of a UUID, in either case.
func ParseSessionID(text string) (SessionID, error) {
	var id SessionID
	digits := strings.ReplaceAll(text, "-", "")
	if len(text) == 36 && len(digits) == 32 {
		if _, err := hex.Decode(id[:], []byte(digits)); err == nil && id.String() == strings.ToLower(text) {
			return id, nil
		}
	}
	return SessionID{}, fmt.Errorf("session id %.60q: the text of a UUID is needed", text)
}

// A Behavior says what happens to the keys that a session holds when it ends.
type Behavior string

const (
	BehaviorRelease Behavior = "release" // they stay, unlocked
	BehaviorDelete  Behavior = "delete"  // they are deleted
)

// Session is what holds locks: it belongs to a program on a node, and ends when it is destroyed,
// when it was not renewed for Lease, or, without a lease, when its node is gone. The leader judges
// the last two and executes SessionDestroy; the state itself counts no time. A session is bound to
// the node's name and not to one life of its agent: a restart ends no session.
//
// TTL is what was asked for and Lease how long the session lives without a renewal, which is more
// where clients of the /v1 dialect expect grace. Sessions never change, so ModRevision is
// CreateRevision. It grows from one session to the next, which makes it a fencing token: of two
// sessions the later one has the larger. For one key the lock index does the same, for as long as the key
// is not deleted; the revision at which the lock was acquired does so without exception.
type Session struct {
	ID             SessionID
	Name           string
	Node           string
	TTL            time.Duration // 0 for none
	Lease          time.Duration // 0 exactly if TTL is
	Behavior       Behavior
	LockDelay      time.Duration // how long its keys cannot be acquired after it ended
	NodeChecks     []string      // checks of its node: it ends when one becomes critical or goes
	ServiceChecks  []string      // the same, of services on its node
	CreatedAt      clock.Stamp
	CreateRevision uint64
	ModRevision    uint64
}

// A Reason says why a session was ended.
type Reason string

const (
	ReasonAsked Reason = "asked" // somebody destroyed it
	ReasonTTL   Reason = "ttl"   // it was not renewed
	ReasonNode  Reason = "node"  // its node is gone
)

// SessionCreate adds a session. CreatedAt and the revisions are the machine's to set.
type SessionCreate struct{ Session Session }

// SessionDestroy ends a session: its keys are released or deleted, and cannot be acquired for its
// lock-delay. With Term it does so only in an entry of that term: a leader that judged a session
// dead, lost the lead and has it again has not heard of the renewals in between.
type SessionDestroy struct {
	ID     SessionID
	Reason Reason
	Term   uint64
}

// Lock writes a key and makes the session its holder. The holder may do it again, to change the
// value. The result's Number is the key's lock index, one more for each new holding. It is
// CodeConflict if the key is held by another session or in its lock-delay, and CodeNotFound if
// there is no such session.
type Lock struct {
	Key     string
	Value   []byte
	Flags   uint64
	Session string // the session id's text
}

// Unlock writes a key and lets go of it. It is CodeConflict if the session does not hold it.
type Unlock struct {
	Key     string
	Value   []byte
	Flags   uint64
	Session string
}

// Bounds of a session's times. A dialect may be stricter.
const (
	MinSessionTTL = time.Second
	MaxSessionTTL = 24 * time.Hour
	MaxLockDelay  = time.Minute
)

// The numbers of behaviors and reasons on the wire are their places here.
var (
	behaviors = []Behavior{BehaviorRelease, BehaviorDelete}
	reasons   = []Reason{ReasonAsked, ReasonTTL, ReasonNode}
)

func (c SessionCreate) check() error {
	s := c.Session
	if s.CreatedAt != 0 || s.CreateRevision != 0 || s.ModRevision != 0 {
		return errors.New("a new session has a past: leave its stamp and revisions empty")
	}
	return s.check()
}

func (s Session) check() error {
	switch {
	case s.ID == SessionID{}:
		return errors.New("the session id is all zero: draw one")
	case len(s.Name) > MaxSessionNameBytes:
		return fmt.Errorf("the session's name has %d bytes: the limit is %d", len(s.Name), MaxSessionNameBytes)
	case s.TTL != 0 && (s.TTL < MinSessionTTL || s.TTL > MaxSessionTTL):
		return fmt.Errorf("a session with a TTL of %s: use %s to %s, or none", s.TTL, MinSessionTTL, MaxSessionTTL)
	case s.Lease < s.TTL || s.Lease > 2*s.TTL:
		return fmt.Errorf("a session with a lease of %s: use one to two times its TTL", s.Lease)
	case s.LockDelay < 0 || s.LockDelay > MaxLockDelay:
		return fmt.Errorf("a lock-delay of %s: use 0 to %s", s.LockDelay, MaxLockDelay)
	case !slices.Contains(behaviors, s.Behavior):
		return fmt.Errorf("session behavior %.40q: use one of %q", s.Behavior, behaviors)
	case len(s.NodeChecks)+len(s.ServiceChecks) > MaxSessionChecks:
		return fmt.Errorf("a session with %d checks: the limit is %d",
			len(s.NodeChecks)+len(s.ServiceChecks), MaxSessionChecks)
	}
	for _, name := range slices.Concat(s.NodeChecks, s.ServiceChecks) {
		if name == "" || len(name) > MaxCheckNameBytes {
			return fmt.Errorf("the check name %.40q has %d bytes: use 1 to %d", name, len(name), MaxCheckNameBytes)
		}
	}
	return CheckNodeName(s.Node)
}

func (c SessionDestroy) check() error {
	if !slices.Contains(reasons, c.Reason) {
		return fmt.Errorf("reason %.40q: use one of %q", c.Reason, reasons)
	}
	return nil
}

func (c Lock) check() error { return checkHold(c.Key, c.Value, c.Session) }

func (c Unlock) check() error { return checkHold(c.Key, c.Value, c.Session) }

func checkHold(key string, value []byte, session string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if len(session) > maxSessionBytes {
		return fmt.Errorf("the session id has %d bytes: the text of a UUID is needed", len(session))
	}
	return checkValue(value)
}
