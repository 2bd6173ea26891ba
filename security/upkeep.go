package security

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/parley-mesh/parley/transport"
)

const (
	// maxNap is the longest sleep between two looks at the clock. Timers stand still while a host
	// is suspended, so a sleep until half of a life could end after the whole of it. It is how long an
	// agent stays without a valid certificate after it was suspended.
	maxNap = 10 * time.Second
	// renewTimeout bounds one attempt.
	renewTimeout = 15 * time.Second
	// retryMin is the pause after the first failed attempt; it doubles up to a twentieth of the
	// certificate's life, but not beyond retryMax.
	retryMin = time.Second
	retryMax = time.Minute
)

// upkeep renews one certificate at half of its life, give or take a tenth so that a thousand agents
// that started together do not come together. A failure changes nothing: what is valid stays in use
// and the next attempt follows after a growing pause. The first failure is the alarm, with half of
// the life still to go.
type upkeep struct {
	now   func() time.Time
	log   *zap.Logger                         // named after the certificate
	life  func() (issued, notAfter time.Time) // of the one in use
	renew func(ctx context.Context) error     // on success life has changed
	stale func() bool                         // the one in use is to be replaced now; nil: never before half of its life

	failing     atomic.Pointer[error]
	saidRefused bool // owned by run
}

// run blocks until ctx ends and returns ctx.Err().
func (u *upkeep) run(ctx context.Context) error {
	failures, saidExpired := 0, false
	due := u.due()
	for {
		if wait := due.Sub(u.now()); wait > 0 {
			if err := sleep(ctx, min(wait, maxNap)); err != nil {
				return err
			}
			if failures == 0 && u.stale != nil && u.stale() { // asked after a nap, so never in a tight loop
				due = u.now()
			}
			continue
		}
		err := u.attempt(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			u.succeeded(failures)
			failures, saidExpired, due = 0, false, u.due()
			continue
		}
		failures++
		saidExpired = u.failed(err, failures, saidExpired)
		due = u.now().Add(u.pause(failures))
	}
}

func (u *upkeep) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	return u.renew(ctx)
}

func (u *upkeep) succeeded(failures int) {
	_, notAfter := u.life()
	u.failing.Store(nil)
	u.saidRefused = false
	u.log.Info("certificate renewed", zap.Time("not_after", notAfter), zap.Int("count", failures))
}

// failed logs the first failure as a warning, and as errors the first one after expiry and the first
// refusal that will not pass by itself; the attempts in between add nothing that an operator does not
// know already.
func (u *upkeep) failed(err error, failures int, saidExpired bool) bool {
	u.failing.Store(&err)
	_, notAfter := u.life()
	fields := []zap.Field{zap.Time("not_after", notAfter), zap.Int("count", failures), zap.Error(err)}
	var refused *RekeyError
	final := false
	if errors.As(err, &refused) {
		final = refused.Permanent()
		fields = append(fields, zap.String("hint", refused.Hint))
	} else if told := (*transport.Error)(nil); errors.As(err, &told) && told.Hint != "" {
		fields = append(fields, zap.String("hint", told.Hint))
	}
	expired := u.now().After(notAfter)
	switch {
	case final && !u.saidRefused:
		u.saidRefused, saidExpired = true, saidExpired || expired
		u.log.Error("the cluster does not renew this host by its key", fields...)
	case expired && !saidExpired:
		u.log.Error("certificate expired and its renewal fails", fields...)
	case failures == 1:
		u.log.Warn("certificate renewal failed, the old one stays in use", fields...)
	default:
		u.log.Debug("certificate renewal failed again", fields...)
	}
	return saidExpired || expired
}

// due is half of the life after issuing, +-10 %.
func (u *upkeep) due() time.Time {
	return HalfLife(u.life())
}

// pause is how long to wait after the given number of failures, with jitter of a half.
func (u *upkeep) pause(failures int) time.Duration {
	issued, notAfter := u.life()
	return RetryPause(failures, notAfter.Sub(issued))
}

// err is why the last attempt failed, nil when it did not.
func (u *upkeep) err() error {
	if p := u.failing.Load(); p != nil {
		return *p
	}
	return nil
}

// backoff doubles from first with each failure, up to limit.
func backoff(failures int, first, limit time.Duration) time.Duration {
	d := first
	for i := 1; i < failures && d < limit; i++ {
		d *= 2
	}
	return min(d, limit)
}

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func orNop(log *zap.Logger) *zap.Logger {
	if log == nil {
		return zap.NewNop()
	}
	return log
}

// HalfLife is when to renew a certificate: at half of its life, give or take a tenth.
func HalfLife(issued, notAfter time.Time) time.Time {
	half := float64(notAfter.Sub(issued)) / 2
	return issued.Add(time.Duration(half * (0.9 + 0.2*rand.Float64())))
}

// RetryPause is how long to wait after so many failures to renew a certificate with the given life, with jitter.
func RetryPause(failures int, life time.Duration) time.Duration {
	return jitter(backoff(failures, retryMin, max(retryMin, min(retryMax, life/20))))
}
