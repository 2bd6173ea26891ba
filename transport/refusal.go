package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// refusal is why a connection was refused, in words for an operator. The reasons are a fixed set.
type refusal struct {
	reason string
	hint   string
}

// causes are the refusals that are told apart by an error's value or type, first match first.
var causes = []struct {
	is   func(error) bool
	then refusal
}{
	{func(err error) bool { return errors.Is(err, errNoProtocol) },
		refusal{"peer names no protocol of ours", "it is not a Parley agent, or one of a version that shares no protocol with this one"}},
	{func(err error) bool { return errors.Is(err, errNoCertificate) },
		refusal{"peer sent no certificate", "an agent must join the cluster first"}},
	{func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) },
		refusal{"peer did not finish the handshake in time", "it is stuck or overloaded, or holds connections open on purpose"}},
	{as[tls.RecordHeaderError],
		refusal{"peer does not speak TLS", "a health check, a port scan or a plain-text client reaches the mesh port"}},
	{isExpired,
		refusal{"peer's certificate has expired or is not valid yet", "an agent that was off for long renews by its host key within seconds; if this goes on, compare the clocks and see its log"}},
	{as[x509.UnknownAuthorityError],
		refusal{"peer's certificate is not from this cluster's CA", "it belongs to another cluster, or its trust bundle is out of date"}},
	{func(err error) bool {
		return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "connection reset")
	},
		refusal{"peer closed the connection during the handshake", "a health check or a port scan, or an agent that gave up"}},
}

// texts are those that crypto/tls tells apart by text alone.
var texts = []struct {
	part string
	then refusal
}{
	{"client offered only unsupported versions", refusal{"peer speaks only TLS older than 1.3", "upgrade it; the mesh takes nothing older"}},
	{"unsupported application protocols", refusal{"peer names no protocol of ours", "it is not a Parley agent, or one of a version that shares no protocol with this one"}},
	{"didn't provide a certificate", refusal{"peer sent no certificate", "an agent must join the cluster first"}},
	{"remote error: tls:", refusal{"peer refused this agent's certificate", "this agent's certificate has expired, or the peer is of another cluster, or its clock or trust bundle is wrong"}},
}

// explain finds the words for a failed handshake. Who verifies certificates may bring its own: each kind
// needs its own reason, or the first of them hides the others in the log.
func explain(err error) refusal {
	var worded interface{ Refusal() (reason, hint string) }
	if errors.As(err, &worded) {
		reason, hint := worded.Refusal()
		return refusal{reason, hint}
	}
	for _, c := range causes {
		if c.is(err) {
			return c.then
		}
	}
	for _, t := range texts {
		if strings.Contains(err.Error(), t.part) {
			return t.then
		}
	}
	return refusal{"peer was refused in the handshake", "see the error"}
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func isExpired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// refusals logs the first refusal of each reason in an interval and counts the rest, so that a
// flood costs one line. Safe for concurrent use.
type refusals struct {
	log *zap.Logger

	mu   sync.Mutex
	seen map[string]int // by reason, beyond the first; bounded by the fixed set of reasons
}

func newRefusals(log *zap.Logger) *refusals {
	return &refusals{log: log, seen: make(map[string]int)}
}

func (r *refusals) note(what refusal, addr net.Addr, err error) {
	r.mu.Lock()
	_, again := r.seen[what.reason]
	if again {
		r.seen[what.reason]++
	} else {
		r.seen[what.reason] = 0
	}
	r.mu.Unlock()
	if again {
		return
	}
	fields := []zap.Field{zap.String("reason", what.reason), zap.String("hint", what.hint)}
	if addr != nil {
		fields = append(fields, zap.Stringer("addr", addr))
	}
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	r.log.Warn("mesh connection refused", fields...)
}

// run ends each interval until ctx does.
func (r *refusals) run(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			r.summarize()
			return
		case <-ticker.C:
			r.summarize()
		}
	}
}

// summarize logs the counts of the interval and begins the next.
func (r *refusals) summarize() {
	r.mu.Lock()
	seen := r.seen
	r.seen = make(map[string]int)
	r.mu.Unlock()
	for reason, count := range seen {
		if count > 0 {
			r.log.Warn("mesh connections refused again", zap.String("reason", reason), zap.Int("count", count))
		}
	}
}
