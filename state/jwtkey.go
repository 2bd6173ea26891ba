package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/clock"
)

// Limits of JWT keys. They are part of the meaning of version 1 of JWTKeyPublish.
const (
	MaxJWTKeys        = 256
	MaxNodeJWTKeys    = 4         // of one core member; one more, and its oldest goes
	MaxJWTKeyBytes    = 512       // SubjectPublicKeyInfo DER
	MaxJWTKeySeconds  = 48 * 3600 // from publishing to the end
	jwtKeyIDDigits    = 32
	maxJWTKeyLiveness = 1 << 40 // a sane bound of NotAfter, in Unix seconds
)

// JWTKey is the public half of a key with which one core member signs JWT-SVIDs. Verifiers find it in the bundle.
type JWTKey struct {
	ID          string // 32 hex digits, the kid
	Node        string // that holds the other half
	Key         []byte // SubjectPublicKeyInfo DER
	NotAfter    uint64 // Unix seconds: nothing that it signed is valid for longer
	PublishedAt clock.Stamp
}

// JWTKeyPublish adds a key of a core member, and forgets those that have ended. The same once more changes nothing.
type JWTKeyPublish struct {
	ID       string
	Node     string
	Key      []byte
	NotAfter uint64
}

// JWTKeyRevoke takes a key out of the bundle at once.
type JWTKeyRevoke struct{ ID string }

func (JWTKeyPublish) kind() kind { return kindJWTKeyPublish }
func (JWTKeyRevoke) kind() kind  { return kindJWTKeyRevoke }

func (c JWTKeyPublish) check() error {
	switch {
	case !checkHex(c.ID, jwtKeyIDDigits):
		return fmt.Errorf("key id %.40q is not %d hex digits", c.ID, jwtKeyIDDigits)
	case len(c.Key) == 0 || len(c.Key) > MaxJWTKeyBytes:
		return fmt.Errorf("a key of %d bytes: use 1 to %d", len(c.Key), MaxJWTKeyBytes)
	case c.NotAfter == 0 || c.NotAfter > maxJWTKeyLiveness:
		return errors.New("the key's end is missing")
	}
	return CheckNodeName(c.Node)
}

func (c JWTKeyRevoke) check() error {
	if !checkHex(c.ID, jwtKeyIDDigits) {
		return fmt.Errorf("key id %.40q is not %d hex digits", c.ID, jwtKeyIDDigits)
	}
	return nil
}

func (c JWTKeyPublish) append(b []byte) []byte {
	b = appendBytes(appendString(appendString(b, c.ID), c.Node), c.Key)
	return binary.AppendUvarint(b, c.NotAfter)
}

func readJWTKeyPublish(r *reader) Command {
	return JWTKeyPublish{
		ID: r.string(jwtKeyIDDigits, "key id"), Node: r.string(MaxNameBytes, "node name"), Key: r.bytes(MaxJWTKeyBytes, "key"), NotAfter: r.uvarint(),
	}
}

func (c JWTKeyRevoke) append(b []byte) []byte { return appendString(b, c.ID) }

func readJWTKeyRevoke(r *reader) Command {
	return JWTKeyRevoke{ID: r.string(jwtKeyIDDigits, "key id")}
}

func (c JWTKeyPublish) apply(a *applying) Result {
	now := uint64(max(a.at.Wall().Unix(), 0))
	if old, known := a.s.jwtKey(c.ID); known {
		if old.Node == c.Node && string(old.Key) == string(c.Key) && old.NotAfter == c.NotAfter {
			return Result{} // a retry
		}
		return refuse(CodeExists, "there is another key with the id %s", c.ID)
	}
	if !a.inCore(c.Node) {
		return refuse(CodeDenied, "node %q is no core member: only those sign tokens", c.Node)
	}
	if c.NotAfter <= now || c.NotAfter > now+MaxJWTKeySeconds {
		return refuse(CodeInvalid, "the key ends at %d, it is %d: a key lasts at most %d s", c.NotAfter, now, MaxJWTKeySeconds)
	}
	a.forgetJWTKeys(c.Node, now)
	if a.s.tables[TableJWTKey].rows >= MaxJWTKeys {
		return refuse(CodeLimit, "there are %d keys of tokens, the most that there can be", MaxJWTKeys)
	}
	a.set(TableJWTKey, c.ID, encodeJWTKey(JWTKey{ID: c.ID, Node: c.Node, Key: c.Key, NotAfter: c.NotAfter, PublishedAt: a.at}))
	return Result{}
}

// forgetJWTKeys removes the keys that have ended, and makes room for one more of a node.
func (a *applying) forgetJWTKeys(node string, now uint64) {
	var own []JWTKey
	for _, k := range a.s.jwtKeys() {
		switch {
		case k.NotAfter <= now:
			a.set(TableJWTKey, k.ID, nil)
		case k.Node == node:
			own = append(own, k)
		}
	}
	if len(own) < MaxNodeJWTKeys {
		return
	}
	oldest := own[0]
	for _, k := range own {
		if k.PublishedAt < oldest.PublishedAt {
			oldest = k
		}
	}
	a.set(TableJWTKey, oldest.ID, nil)
}

// dropJWTKeys removes the keys of a node that left: what they signed counts no more wherever the bundle is known.
func (a *applying) dropJWTKeys(node string) {
	for _, k := range a.s.jwtKeys() {
		if k.Node == node {
			a.set(TableJWTKey, k.ID, nil)
		}
	}
}

// inCore reports whether a node has a Raft id that is not retired.
func (a *applying) inCore(node string) bool {
	for _, c := range a.s.core(false) {
		if c.Node == node {
			return true
		}
	}
	return false
}

func (c JWTKeyRevoke) apply(a *applying) Result {
	if _, known := a.s.jwtKey(c.ID); !known {
		return refuse(CodeNotFound, "there is no key %s", c.ID)
	}
	a.set(TableJWTKey, c.ID, nil)
	return Result{}
}

// recoverJWTKeys forgets all keys in a new epoch: those who hold the other halves may not be of it, and a new core
// publishes its own within a second.
func (a *applying) recoverJWTKeys() {
	for _, k := range a.s.jwtKeys() {
		a.set(TableJWTKey, k.ID, nil)
	}
}

func encodeJWTKey(k JWTKey) []byte {
	b := appendString(newRow(256), k.ID)
	b = appendBytes(appendString(b, k.Node), k.Key)
	return binary.AppendUvarint(binary.AppendUvarint(b, k.NotAfter), uint64(k.PublishedAt))
}

// DecodeJWTKey reads a row. The error is ErrMalformed, wrapped.
func DecodeJWTKey(row []byte) (JWTKey, error) {
	r := openRow(row)
	k := JWTKey{ID: r.string(jwtKeyIDDigits, "key id"), Node: r.string(MaxNameBytes, "node name"), Key: r.bytes(MaxJWTKeyBytes, "key")}
	k.NotAfter, k.PublishedAt = r.uvarint(), clock.Stamp(r.uvarint())
	return k, r.done()
}

// JWTKeys returns the keys of tokens by id.
func (v *View) JWTKeys() []JWTKey { return v.s.jwtKeys() }

// JWTKey returns the key of that id.
func (v *View) JWTKey(id string) (JWTKey, bool) { return v.s.jwtKey(id) }

func (s *store) jwtKey(id string) (JWTKey, bool) {
	r, ok := s.get(TableJWTKey, id)
	if !ok {
		return JWTKey{}, false
	}
	return must(DecodeJWTKey(r.row)), true
}

func (s *store) jwtKeys() []JWTKey {
	return rows(s, TableJWTKey, func(r *record) (JWTKey, error) { return DecodeJWTKey(r.row) })
}
