package agent

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/transport"
)

// The greeting comes first on every connection for RPC and Raft, which is what change streams, forwarded requests and
// the core's own traffic go by. Both ends say, at once, which epoch they live in:
//
//	version 1 | counter 8 | id 16        (big endian)
//
// Equal epochs go on. Otherwise nothing else is said, but that the end in the newer epoch sends the proof of it, as
// length 4 and state.EncodeEpochProof, and both close. An agent that knows no epoch yet, because it has just joined,
// says counter 0 and is let in for RPC, or it could never learn of one.
const (
	greetVersion = 1
	greetBytes   = 1 + state.EpochBytes
	greetTimeout = 5 * time.Second
)

// EpochError is why two agents do not talk to each other.
type EpochError struct {
	Peer        string
	Own, Theirs state.Epoch
	Verdict     state.EpochVerdict // of the peer, by this agent
	Learned     bool               // the peer has proven its epoch: this agent follows it from now on
	Cause       error              // what went wrong with the proof, if anything
}

func (e *EpochError) Error() string {
	text := fmt.Sprintf("%s lives in epoch %d, and %s", e.Peer, e.Theirs.Counter, e.what())
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// what says what to do.
func (e *EpochError) what() string {
	switch e.Verdict {
	case state.EpochOlder:
		return fmt.Sprintf("the cluster was recovered into epoch %d since: it was sent the proof, keeps its old log aside and follows by itself; "+
			"if it does not, its log says why", e.Own.Counter)
	case state.EpochSplit:
		return fmt.Sprintf("this agent in another epoch of that number (%s here, %s there), for the cluster was recovered twice: decide which goes on, "+
			"stop all agents of the other, and give those an empty data directory and a new token", e.Own, e.Theirs)
	}
	switch {
	case e.Learned:
		return fmt.Sprintf("has proven that epoch %d has passed: this agent follows the newer one", e.Own.Counter)
	case e.Cause != nil:
		return fmt.Sprintf("this agent in epoch %d, which cannot check the proof of the newer one: if the cluster was recovered, stop this agent and join "+
			"again with an empty data directory and a new token", e.Own.Counter)
	}
	return fmt.Sprintf("this agent in epoch %d", e.Own.Counter)
}

func (e *EpochError) Unwrap() error { return e.Cause }

// atOdds reports whether a person is needed: a split, or a proof that came whole and that this agent cannot check.
func (e *EpochError) atOdds() bool {
	return e.Verdict == state.EpochSplit || !e.Learned && (errors.Is(e.Cause, state.ErrEpochUnproven) || errors.Is(e.Cause, state.ErrEpochSplit))
}

// Refusal words it for the log of the mesh port.
func (e *EpochError) Refusal() (reason, hint string) {
	return "peer lives in another epoch of the cluster", "parley disaster recover and snapshot restore begin one; see the error"
}

// errNoEpoch refuses a Raft connection between agents of which one knows no epoch.
var errNoEpoch = errors.New("an agent that knows no epoch yet takes no part in the core")

// greet agrees with the peer on the epoch of a connection that was just opened. core says that the connection is for Raft.
// The error is an *EpochError, or that of the connection.
func (e *epochs) greet(ctx context.Context, conn net.Conn, peer string, core bool) (state.Epoch, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // long ago: what is under way ends
	own := e.current()
	theirs, err := exchange(conn, own)
	if err != nil {
		stop()
		return state.Epoch{}, err
	}
	agreed := own
	switch {
	case own.Counter != 0 && theirs.Counter != 0:
		err = e.judge(conn, peer, own, theirs)
	case core:
		err = errNoEpoch
	case own.Counter == 0:
		agreed = theirs
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	return agreed, err
}

func exchange(conn net.Conn, own state.Epoch) (theirs state.Epoch, err error) {
	if _, err := conn.Write(own.Append([]byte{greetVersion})); err != nil {
		return theirs, fmt.Errorf("greet: %w", err)
	}
	var hello [greetBytes]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return theirs, fmt.Errorf("read greeting: %w", err)
	}
	if hello[0] != greetVersion {
		return theirs, fmt.Errorf("greeting of version %d is unknown: the peer is of a version that shares none with this one", hello[0])
	}
	theirs, _, _ = state.CutEpoch(hello[1:])
	return theirs, nil
}

// judge returns nil if the two epochs are the same. The end in the newer epoch proves it to the other.
func (e *epochs) judge(conn net.Conn, peer string, own, theirs state.Epoch) error {
	refused := &EpochError{Peer: peer, Own: own, Theirs: theirs, Verdict: own.Judge(theirs)}
	switch refused.Verdict {
	case state.EpochSame:
		return nil
	case state.EpochOlder:
		proof := e.proof()
		_, refused.Cause = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(proof))), proof...)) //nolint:gosec // at most MaxEpochProofBytes
	case state.EpochNewer:
		var proof []byte
		if proof, refused.Cause = readProof(conn); refused.Cause == nil {
			_, refused.Cause = e.learn(proof)
		}
		refused.Learned = e.passed(own)
	}
	return refused
}

func readProof(conn net.Conn) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, fmt.Errorf("read the proof of the epoch: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > state.MaxEpochProofBytes {
		return nil, fmt.Errorf("%w: proof of %d bytes, at most %d are read", state.ErrEpochUnproven, size, state.MaxEpochProofBytes)
	}
	proof := make([]byte, size)
	if _, err := io.ReadFull(conn, proof); err != nil {
		return nil, fmt.Errorf("read the proof of the epoch: %w", err)
	}
	return proof, nil
}

// standing judges a connection whose ends have agreed on an epoch: it ends when this agent has gone on to another.
func (e *epochs) standing(agreed state.Epoch) transport.Standing {
	return transport.Standing{Check: func() error {
		now := e.current()
		if now.Counter == 0 || agreed.Counter == 0 || now == agreed {
			return nil
		}
		return fmt.Errorf("the connection was made in epoch %d, this agent lives in epoch %d", agreed.Counter, now.Counter)
	}}
}

// agreedConn is a connection in the table of those that are rechecked, beside what its certificate is rechecked by.
type agreedConn struct {
	*tls.Conn
}

// dialledConn is one that this agent has made. Closing it takes it out of the table.
type dialledConn struct {
	*transport.Outgoing
	remove func()
}

// Close implements net.Conn.
func (c *dialledConn) Close() error {
	c.remove()
	return c.Outgoing.Close()
}

// greeted is the handler of a protocol whose connections belong to an epoch.
func (a *Agent) greeted(core bool, handle transport.ConnHandler) transport.ConnHandler {
	return func(ctx context.Context, conn *tls.Conn, peer transport.Peer) {
		if peer.Operator != "" {
			a.serveOperator(ctx, conn, peer, handle)
			return
		}
		agreed, err := a.epochs.greet(ctx, conn, peer.Node, core)
		if err == nil {
			var remove func()
			if remove, err = a.live.Add(agreedConn{conn}, a.epochs.standing(agreed)); err == nil {
				defer remove()
				a.epochs.agreed(peer.Node)
				handle(ctx, conn, peer)
				return
			}
		}
		a.tellEpoch(peer.Node, err)
		_ = conn.Close() // after the last word was said
	}
}

// greetDialled does the same at the other end.
func (a *Agent) greetDialled(ctx context.Context, conn *transport.Outgoing, node string, core bool) (net.Conn, error) {
	agreed, err := a.epochs.greet(ctx, conn, node, core)
	if err == nil {
		var remove func()
		if remove, err = a.live.Add(agreedConn{conn.Conn}, a.epochs.standing(agreed)); err == nil {
			a.epochs.agreed(node)
			return &dialledConn{conn, remove}, nil
		}
	}
	a.tellEpoch(node, err)
	return nil, errors.Join(err, conn.Close())
}

func (a *Agent) tellEpoch(peer string, err error) {
	var refused *EpochError
	if errors.As(err, &refused) {
		a.epochs.tell(peer, refused)
	}
}
