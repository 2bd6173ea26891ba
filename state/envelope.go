package state

import (
	"encoding/binary"
	"fmt"
)

// Envelope is a command with who asked for it. Caller is a SPIFFE ID, "uid:1000@node" or "";
// Via is the agent that took the request in; Request tells a retry from a second request.
type Envelope struct {
	Caller  string
	Via     string
	Request [16]byte
	Command Command
}

// Encode returns the command's bytes for a cluster that runs clusterVersion. It refuses a command
// that could never be done, one over MaxCommandBytes (ErrTooLarge), and with *TooNewError one that
// the cluster's version does not have yet.
func Encode(e Envelope, clusterVersion uint32) ([]byte, error) {
	k := e.Command.kind()
	spec := &kinds[k]
	if clusterVersion < spec.since {
		return nil, &TooNewError{Command: spec.name, Need: spec.since, Have: clusterVersion}
	}
	if len(e.Caller) > MaxCallerBytes || len(e.Via) > MaxNameBytes {
		return nil, fmt.Errorf("caller %.80q via %.80q: %w", e.Caller, e.Via, ErrTooLarge)
	}
	if err := e.Command.check(); err != nil {
		return nil, err
	}
	if v := raises(e.Command); v > Version {
		return nil, fmt.Errorf("cluster version %d is beyond this agent's %d: upgrade the agents first",
			v, Version)
	}
	size := 128 + len(e.Caller) + len(e.Via)
	if c, ok := e.Command.(Put); ok {
		size += len(c.Key) + len(c.Value)
	}
	b := binary.AppendUvarint(make([]byte, 0, size), uint64(k))
	b = binary.AppendUvarint(b, spec.version)
	b = appendString(b, e.Caller)
	b = appendString(b, e.Via)
	b = append(b, e.Request[:]...)
	b = e.Command.append(b)
	if len(b) > MaxCommandBytes {
		return nil, fmt.Errorf("the command has %d bytes, the limit is %d: %w",
			len(b), MaxCommandBytes, ErrTooLarge)
	}
	return b, nil
}

// Decode reads what Encode wrote. The error is *UnknownCommandError, or wraps ErrMalformed or
// ErrTooLarge. Byte slices in the command alias b.
func Decode(b []byte) (Envelope, error) { return decodeLike(b, &Envelope{}) }

// decodeLike is Decode, and takes the strings of another command where they are the same: those who ask are few.
func decodeLike(b []byte, other *Envelope) (Envelope, error) {
	if len(b) > MaxCommandBytes {
		return Envelope{}, fmt.Errorf("command of %d bytes: %w", len(b), ErrTooLarge)
	}
	r := &reader{b: b}
	k, version := r.uvarint(), r.uvarint()
	if r.err != nil {
		return Envelope{}, r.err
	}
	if k == 0 || k >= uint64(kindEnd) || kinds[k].version != version {
		return Envelope{}, &UnknownCommandError{Kind: k, Version: version}
	}
	var e Envelope
	e.Caller = r.stringLike(other.Caller, MaxCallerBytes, "caller")
	e.Via = r.stringLike(other.Via, MaxNameBytes, "via")
	e.Request = r.fixed16("request id")
	e.Command = kinds[k].decode(r)
	if err := r.done(); err != nil {
		return Envelope{}, fmt.Errorf("command %q: %w", kinds[k].name, err)
	}
	if v := raises(e.Command); v > Version {
		return Envelope{}, &UnknownCommandError{Kind: k, Version: uint64(v)}
	}
	return e, nil
}

// raises returns the version that c raises the cluster to, 0 for other commands. A binary that
// does not know that version stops there: what follows would be encoded for it.
func raises(c Command) uint32 {
	v, _ := c.(SetClusterVersion)
	return v.Version
}
