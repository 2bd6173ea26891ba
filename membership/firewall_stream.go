package membership

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// errStream: a stream carried something that its direction does not allow.
var errStream = errors.New("gossip stream refused")

// request reads the one message with which a peer opened a stream to us and returns what
// memberlist may see of it: a ping in the peer's own name, or a state exchange.
func (f *firewall) request(from string, r io.Reader) ([]byte, error) {
	return f.stream(from, r, func(kind byte, br *bufio.Reader) ([]byte, error) {
		switch kind {
		case msgPing:
			var m wirePing
			if err := decodeFrom(br, &m); err != nil || m.SourceNode != from || m.Node != f.self {
				return nil, errStream
			}
			return encodeMsg(msgPing, &wirePing{SeqNo: m.SeqNo, Node: m.Node, SourceNode: from}), nil
		case msgPushPull:
			if !f.limits.allow(exchangeRate, from, "") {
				return nil, fmt.Errorf("%w: too many state exchanges", errStream)
			}
			return f.pushPull(from, br)
		}
		return nil, fmt.Errorf("%w: message type %d", errStream, kind)
	})
}

// response reads the one message with which a peer answered a stream of ours.
func (f *firewall) response(from string, r io.Reader) ([]byte, error) {
	return f.stream(from, r, func(kind byte, br *bufio.Reader) ([]byte, error) {
		switch kind {
		case msgAck:
			// memberlist compares the sequence number with the ping it wrote on this stream.
			var m wireAck
			if err := decodeFrom(br, &m); err != nil {
				return nil, err
			}
			return encodeMsg(msgAck, &wireAck{SeqNo: m.SeqNo}), nil
		case msgPushPull:
			return f.pushPull(from, br)
		case msgErr:
			var m wireErr
			if err := decodeFrom(io.LimitReader(br, 2*maxErrorBytes), &m); err != nil || len(m.Error) > maxErrorBytes {
				return nil, errStream
			}
			return encodeMsg(msgErr, &m), nil
		}
		return nil, fmt.Errorf("%w: message type %d", errStream, kind)
	})
}

// stream peels off the type byte and compression.
func (f *firewall) stream(from string, r io.Reader, next func(kind byte, br *bufio.Reader) ([]byte, error)) ([]byte, error) {
	br := bufio.NewReader(io.LimitReader(r, maxStateBytes))
	kind, err := br.ReadByte()
	if err != nil {
		return nil, err
	}
	if kind == msgCompress {
		var c wireCompress
		if err := decodeFrom(br, &c); err != nil {
			return nil, err
		}
		plain, err := decompress(c, maxStateBytes)
		if err != nil || len(plain) == 0 {
			return nil, errStream
		}
		kind, br = plain[0], bufio.NewReader(bytes.NewReader(plain[1:]))
	}
	out, err := next(kind, br)
	if err != nil {
		f.dropped.Add(1)
	}
	return out, err
}

func decodeFrom(r io.Reader, out any) error {
	return codec.NewDecoder(r, msgpackHandle()).Decode(out)
}

// pushPull is rules 5 and 6. memberlist sees no user state: what is in it are statements.
func (f *firewall) pushPull(from string, br *bufio.Reader) ([]byte, error) {
	dec := codec.NewDecoder(br, msgpackHandle())
	var head wirePushPull
	if err := dec.Decode(&head); err != nil {
		return nil, err
	}
	if head.Nodes < 0 || head.Nodes > maxStates || head.UserStateLen < 0 || head.UserStateLen > maxUserBytes {
		return nil, errTooLarge
	}
	var kept []wireState
	for range head.Nodes {
		var s wireState
		if err := dec.Decode(&s); err != nil {
			return nil, err
		}
		if f.state(from, &s) {
			kept = append(kept, s)
		} else {
			f.dropped.Add(1)
		}
	}
	user := make([]byte, head.UserStateLen)
	if _, err := io.ReadFull(br, user); err != nil {
		return nil, err
	}
	f.userState(from, user)
	return encodePushPull(kept, head.Join), nil
}

// state holds one state of an exchange to rules 1 and 4, and reports whether anything is left.
// memberlist treats dead as suspect here, and so do we.
func (f *firewall) state(from string, s *wireState) bool {
	s.Vsn = memberVersions
	if s.Name == f.self {
		refute := f.aboutSelf(from, s.Incarnation, s.Meta, s.State == wireAlive)
		s.State = wireSuspect
		return refute != nil
	}
	switch s.State {
	case wireAlive:
		r, ok := f.alive(from, s.Name, s.Incarnation, s.Meta)
		s.Addr, s.Port = r.Addr.Addr().AsSlice(), r.Addr.Port()
		return ok
	case wireLeft:
		if f.mayHaveLeft(from, s.Name) {
			return f.mayAccuse(from, s.Name, s.Incarnation)
		}
		s.State = wireSuspect
		return f.mayAccuse(from, s.Name, s.Incarnation)
	case wireDead, wireSuspect:
		s.State = wireSuspect
		return f.mayAccuse(from, s.Name, s.Incarnation)
	}
	return false
}

// encodePushPull is a state exchange as memberlist sends it.
func encodePushPull(states []wireState, join bool) []byte {
	var b bytes.Buffer
	b.WriteByte(msgPushPull)
	enc := codec.NewEncoder(&b, msgpackHandle())
	// Encoding plain structs into memory cannot fail.
	_ = enc.Encode(&wirePushPull{Nodes: len(states), Join: join})
	for i := range states {
		_ = enc.Encode(&states[i])
	}
	return b.Bytes()
}
