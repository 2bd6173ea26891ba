package security

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/parley-mesh/parley/transport"
)

// renewal runs a Renewer in the bubble of t until the test ends.
type renewal struct {
	w       *world
	src     *Source
	renewer *Renewer
	logs    *observer.ObservedLogs

	mu    sync.Mutex // guards what follows and w.gen
	fail  error      // what the issuer answers; nil: a certificate
	asked []time.Time
}

// attempts returns when the issuer was asked.
func (r *renewal) attempts() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// set changes what the issuer does.
func (r *renewal) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func startRenewal(t *testing.T, ttl time.Duration) *renewal {
	t.Helper()
	w := newWorld(t, testTD)
	core, logs := observer.New(zapcore.DebugLevel)
	r := &renewal{w: w, src: w.first(), logs: logs}
	r.renewer = NewRenewer(RenewerOptions{
		Source: r.src, TTL: ttl, Now: time.Now, Log: zap.New(core),
		Renew: func(_ context.Context, req LeafRequest) ([][]byte, uint64, [][]byte, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.asked = append(r.asked, time.Now())
			if r.fail != nil {
				return nil, 0, nil, r.fail
			}
			chain, err := w.gen.Authority.SignAgent(req, time.Now())
			return chain, w.gen.BundleSequence, w.gen.Roots, err
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.renewer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	return r
}

func (r *renewal) count(level zapcore.Level) int {
	return r.logs.Filter(func(e observer.LoggedEntry) bool { return e.Level == level }).Len()
}

// A certificate is replaced at half of its life, give or take a tenth, again and again.
func TestRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRenewal(t, time.Hour)
		start := time.Now()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		last := start
		for i, at := range r.attempts() {
			if gap := at.Sub(last); gap < 27*time.Minute-time.Second || gap > 33*time.Minute+time.Second {
				t.Errorf("renewal %d after %s", i, gap)
			}
			last = at
		}
		if n := len(r.attempts()); n < 18 || n > 23 {
			t.Errorf("%d renewals in 10 h", n)
		}
		if left := time.Until(r.src.NotAfter()); left < 26*time.Minute {
			t.Errorf("%s left", left)
		}
		if r.count(zapcore.WarnLevel) != 0 || r.renewer.Err() != nil {
			t.Errorf("warnings %v, error %v", r.logs.All(), r.renewer.Err())
		}
	})
}

// While the issuer fails the old certificate stays in use; the first failure is logged as a warning,
// expiry once as an error, and when the issuer is back the next attempt heals everything.
func TestFailingIssuerKeepsTheOldCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRenewal(t, time.Hour)
		before := r.src.Leaf()
		r.set(func() { r.fail = errors.New("no issuer answers") })
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if !r.src.Leaf().Equal(before) {
			t.Error("the certificate changed")
		}
		if r.count(zapcore.WarnLevel) != 1 || r.count(zapcore.ErrorLevel) != 0 || !errors.Is(r.renewer.Err(), r.fail) {
			t.Errorf("before expiry: %d warnings, %d errors, %v", r.count(zapcore.WarnLevel), r.count(zapcore.ErrorLevel), r.renewer.Err())
		}
		if n := len(r.attempts()); n < 10 || n > 100 {
			t.Errorf("%d attempts in 20 minutes", n)
		}
		asked := r.attempts()
		for i := 1; i < len(asked); i++ {
			if gap := asked[i].Sub(asked[i-1]); gap < retryMin/2 || gap > retryMax {
				t.Errorf("pause of %s", gap)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !r.src.Leaf().Equal(before) || r.count(zapcore.ErrorLevel) != 1 || r.count(zapcore.WarnLevel) != 1 {
			t.Errorf("after expiry: %d errors, %d warnings", r.count(zapcore.ErrorLevel), r.count(zapcore.WarnLevel))
		}
		r.set(func() { r.fail = nil })
		time.Sleep(retryMax)
		synctest.Wait()
		if r.renewer.Err() != nil || time.Until(r.src.NotAfter()) < 58*time.Minute {
			t.Errorf("not healed: %v, until %s", r.renewer.Err(), r.src.NotAfter())
		}
	})
}

// An issuer that answers rubbish, or does not answer, changes nothing either.
func TestBadIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, other := newWorld(t, testTD), newWorld(t, testTD)
		src := w.first()
		before := src.Leaf()
		answers := 0
		renewer := NewRenewer(RenewerOptions{Source: src, Now: time.Now,
			Renew: func(ctx context.Context, req LeafRequest) ([][]byte, uint64, [][]byte, error) {
				answers++
				switch answers % 3 {
				case 0:
					<-ctx.Done() // a peer that hangs
					return nil, 0, nil, ctx.Err()
				case 1:
					return [][]byte{{1, 2, 3}}, 0, nil, nil
				default: // a chain of another cluster
					chain, err := other.gen.Authority.SignAgent(req, time.Now())
					return chain, 1, nil, err
				}
			}})
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Minute)
		defer cancel()
		if err := renewer.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
		if !src.Leaf().Equal(before) || answers < 6 || renewer.Err() == nil {
			t.Errorf("%d answers, error %v", answers, renewer.Err())
		}
	})
}

// A renewal brings the new bundle along and takes a certificate below the new root.
func TestRenewalTakesTheBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRenewal(t, time.Hour)
		second, err := NewRoot(testTD, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.w.gen.Authority.Renew(second, time.Now()); err != nil {
			t.Fatal(err)
		}
		r.set(func() { r.w.gen.BundleSequence, r.w.gen.Roots = 2, [][]byte{r.w.root.Cert.Raw, second.Cert.Raw} })
		time.Sleep(34 * time.Minute)
		synctest.Wait()
		seq, roots := r.src.Bundle()
		if seq != 2 || len(roots) != 2 || r.renewer.Err() != nil {
			t.Errorf("sequence %d, %d roots, %v", seq, len(roots), r.renewer.Err())
		}
		// The issuer falls behind (another core member): its older bundle is not taken back.
		r.set(func() { r.w.gen.BundleSequence, r.w.gen.Roots = 1, [][]byte{r.w.root.Cert.Raw} })
		time.Sleep(34 * time.Minute)
		synctest.Wait()
		if seq, _ := r.src.Bundle(); seq != 2 || r.renewer.Err() != nil || len(r.attempts()) < 2 {
			t.Errorf("sequence %d, %v", seq, r.renewer.Err())
		}
	})
}

// A disk that takes no file does not cost the identity: the certificate is in use, and said to be unsaved.
func TestRenewalWithoutDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRenewal(t, time.Hour)
		before := r.src.Leaf()
		dir := filepath.Join(r.w.dir, identityDirName)
		if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(34 * time.Minute)
		synctest.Wait()
		if r.src.Leaf().Equal(before) || r.renewer.Err() != nil || len(r.attempts()) != 1 {
			t.Errorf("asked %d times, %v", len(r.attempts()), r.renewer.Err())
		}
		if r.logs.FilterMessage("renewed identity is in use but not on disk").Len() != 1 {
			t.Errorf("logs: %v", r.logs.All())
		}
	})
}

// The issuer of a core member is renewed at half of its 24 hours, and kept while the root cannot be
// opened.
func TestAuthorityRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testTD)
		a := w.gen.Authority
		var opened atomic.Int32
		var closed atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- a.Run(ctx, AuthorityRun{Now: time.Now, Open: func() (*Root, error) {
				opened.Add(1)
				if closed.Load() {
					return nil, ErrSeal
				}
				return w.root, nil
			}})
		}()
		first := a.NotAfter()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := opened.Load(); n != 0 {
			t.Errorf("the root was opened %d times within 10 h", n)
		}
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if opened.Load() != 1 || !a.NotAfter().After(first) {
			t.Errorf("opened %d times, until %s", opened.Load(), a.NotAfter())
		}
		closed.Store(true)
		second := a.NotAfter()
		time.Sleep(14 * time.Hour)
		synctest.Wait()
		if opened.Load() < 3 || !a.NotAfter().Equal(second) {
			t.Errorf("while the seal is shut: opened %d times, until %s", opened.Load(), a.NotAfter())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

// The pauses double up to their limit and are spread over half of it.
func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 7: time.Minute, 1 << 30: time.Minute} {
		if got := backoff(failures, time.Second, time.Minute); got != want {
			t.Errorf("backoff(%d) = %s, want %s", failures, got, want)
		}
	}
	low, high := time.Minute, time.Duration(0)
	for range 1000 {
		d := jitter(time.Minute)
		low, high = min(low, d), max(high, d)
	}
	if low < 30*time.Second || high > time.Minute || high-low < 20*time.Second {
		t.Errorf("jitter gives %s to %s", low, high)
	}
}

// A TTL that no issuer grants is a mistake of the program.
func TestRenewerTTLBounds(t *testing.T) {
	for _, ttl := range []time.Duration{MinLeafTTL - 1, MaxLeafTTL + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("TTL %s was accepted", ttl)
				}
			}()
			NewRenewer(RenewerOptions{TTL: ttl})
		}()
	}
}

// Each renewal carries the host's next generation, a failed attempt the same one again. Without a disk for it the renewal goes on
// with the one before, and a request of one that has none is what an older agent sends.
func TestRenewsWithAGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testTD)
		src := w.first()
		core, logs := observer.New(zapcore.WarnLevel)
		var fail error
		var asked []*GenerationLink
		r := NewRenewer(RenewerOptions{
			Source: src, TTL: time.Hour, Now: time.Now, Log: zap.New(core), Ratchet: OpenRatchet(w.dir, w.gen.ClusterID, "a1", w.gen.Host),
			Renew: func(_ context.Context, req LeafRequest) ([][]byte, uint64, [][]byte, error) {
				back, err := DecodeLeafRequest(mustJSON(t, req))
				if err != nil {
					t.Error(err)
				}
				asked = append(asked, back.Generation)
				if fail != nil {
					return nil, 0, nil, fail
				}
				chain, err := w.gen.Authority.SignAgent(req, time.Now())
				return chain, w.gen.BundleSequence, w.gen.Roots, err
			},
		})
		for _, failing := range []error{errors.New("lost"), errors.New("lost again"), nil, nil} {
			if fail = failing; !errors.Is(r.renew(t.Context()), failing) {
				t.Fatal("another error")
			}
		}
		blocked := identityPath(w.dir, generationFile) + ".tmp"
		if err := os.MkdirAll(filepath.Join(blocked, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := r.renew(t.Context()); err != nil {
			t.Errorf("without a disk: %v", err)
		}
		if err := errors.Join(os.RemoveAll(blocked), os.WriteFile(identityPath(w.dir, generationFile), []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		r.o.Ratchet = OpenRatchet(w.dir, w.gen.ClusterID, "a1", w.gen.Host)
		if err := r.renew(t.Context()); err != nil || asked[5] != nil {
			t.Errorf("with a damaged file: %v, %v", err, asked[5])
		}
		if n := logs.FilterMessage("asking for a certificate without a generation").Len(); n != 1 {
			t.Errorf("%d warnings of it", n)
		}
		var got []uint64
		for _, l := range asked[:5] {
			got = append(got, l.Generation)
		}
		if want := []uint64{1, 1, 1, 2, 2}; !slices.Equal(got, want) {
			t.Errorf("generations %v, want %v", got, want)
		}
	})
}

// TestRefusedRenewalSaysWhatToDo: what a core member says to a host that asks with its certificate is in the first line about it.
func TestRefusedRenewalSaysWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRenewal(t, time.Hour)
		r.set(func() {
			r.fail = fmt.Errorf("ask a2: %w", &transport.Error{Code: RekeyUntold, Message: "it shows none", Hint: rekeyHints[RekeyUntold]})
		})
		time.Sleep(40 * time.Minute)
		lines := r.logs.FilterMessage("certificate renewal failed, the old one stays in use").All()
		if len(lines) != 1 || lines[0].ContextMap()["hint"] != rekeyHints[RekeyUntold] {
			t.Errorf("logged %+v", lines)
		}
	})
}
