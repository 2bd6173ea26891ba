package federation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"
)

const (
	// MaxPeers is how many trust domains there may be.
	MaxPeers = 64

	defaultRefresh = 5 * time.Minute // without a hint
	minRefresh     = 10 * time.Second
	maxRefresh     = time.Hour
	firstRetry     = time.Second // doubled each time up to defaultRefresh
)

// Options are what a Client needs.
type Options struct {
	Own   spiffeid.TrustDomain
	Peers []Peer
	Dir   string // for the last good bundles; made when it is missing
	Log   *zap.Logger
}

// Client knows the bundles of other trust domains. What it has fetched once it keeps until it has something newer, however
// long the other side is away.
type Client struct {
	peers []Peer
	dir   string
	log   *zap.Logger
	mu    struct {
		sync.Mutex // nothing is fetched or written under it
		good       map[spiffeid.TrustDomain]*spiffebundle.Bundle
		saved      map[spiffeid.TrustDomain]bool // good is on disk
		changed    chan struct{}
	}
}

// NewClient reads the last good bundles. It fetches nothing.
func NewClient(o Options) (*Client, error) {
	if len(o.Peers) > MaxPeers {
		return nil, fmt.Errorf("%d trust domains, at most %d can be federated with", len(o.Peers), MaxPeers)
	}
	c := &Client{peers: o.Peers, dir: o.Dir, log: o.Log}
	c.mu.good, c.mu.saved = make(map[spiffeid.TrustDomain]*spiffebundle.Bundle), make(map[spiffeid.TrustDomain]bool)
	c.mu.changed = make(chan struct{})
	for i, p := range o.Peers {
		if p.TrustDomain == o.Own {
			return nil, fmt.Errorf("%s is this cluster's own trust domain: leave it out of the federation", p.TrustDomain)
		}
		if slices.ContainsFunc(o.Peers[:i], func(other Peer) bool { return other.TrustDomain == p.TrustDomain }) {
			return nil, fmt.Errorf("the trust domain %s is there twice", p.TrustDomain)
		}
		b, err := c.load(p.TrustDomain)
		switch {
		case err == nil:
			c.mu.good[p.TrustDomain], c.mu.saved[p.TrustDomain] = b, true
		case errors.Is(err, fs.ErrNotExist):
			if p.Initial != nil && p.Initial.TrustDomain() == p.TrustDomain {
				c.mu.good[p.TrustDomain] = p.Initial
			}
		default:
			return nil, fmt.Errorf("last good bundle of %s: %w: remove %s to fetch it anew", p.TrustDomain, err, c.path(p.TrustDomain))
		}
	}
	return c, nil
}

// Bundles returns the last good bundles, which must not be changed, and a channel that is closed when one changes.
func (c *Client) Bundles() (map[spiffeid.TrustDomain]*spiffebundle.Bundle, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	bundles := make(map[spiffeid.TrustDomain]*spiffebundle.Bundle, len(c.mu.good))
	for td, b := range c.mu.good {
		bundles[td] = b
	}
	return bundles, c.mu.changed
}

// Run fetches until ctx ends. Each trust domain has a goroutine, so that none waits for another.
func (c *Client) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, p := range c.peers {
		all.Go(func() { c.follow(ctx, p) })
	}
	all.Wait()
	<-ctx.Done()
	return nil
}

func (c *Client) follow(ctx context.Context, p Peer) {
	retry := firstRetry
	for {
		wait, err := c.refresh(ctx, p)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			wait, retry = retry, min(2*retry, defaultRefresh)
			c.log.Warn("bundle of another trust domain not fetched, the last good one is kept",
				zap.Stringer("trust_domain", p.TrustDomain), zap.Error(err))
		} else {
			retry = firstRetry
		}
		wait += time.Duration(rand.Int64N(int64(wait)/10 + 1)) //nolint:gosec // so that agents do not ask all at once
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// refresh fetches once, and returns when to do so again.
func (c *Client) refresh(ctx context.Context, p Peer) (time.Duration, error) {
	b, err := fetch(ctx, p, c.trusted(p), fetchWithin)
	if err != nil {
		return 0, err
	}
	if err := c.accept(b); err != nil {
		return 0, err
	}
	hint, ok := b.RefreshHint()
	if !ok || hint <= 0 {
		hint = defaultRefresh
	}
	return min(max(hint, minRefresh), maxRefresh), nil
}

// trusted is what an endpoint is checked by that proves itself with a SPIFFE ID.
func (c *Client) trusted(p Peer) x509bundle.Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.mu.good[p.EndpointID.TrustDomain()]; ok {
		return b
	}
	if p.Initial != nil {
		return p.Initial
	}
	return spiffebundle.NewSet()
}

// accept puts a bundle into use and on disk. One that is older than the one in use is refused: who serves it may have been
// restored from a backup, or may want an authority back that was taken out.
func (c *Client) accept(b *spiffebundle.Bundle) error {
	saved, err := c.use(b)
	if err != nil || saved {
		return err
	}
	err = c.save(b)
	if err != nil { // it is in use all the same
		c.log.Warn("bundle of another trust domain not saved, the next start begins with an older one",
			zap.Stringer("trust_domain", b.TrustDomain()), zap.Error(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.saved[b.TrustDomain()] = err == nil
	return nil
}

// use puts a bundle into use, and reports whether it is on disk already.
func (c *Client) use(b *spiffebundle.Bundle) (saved bool, err error) {
	td := b.TrustDomain()
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.mu.good[td]
	if known {
		if err := newer(old, b); err != nil {
			return false, err
		}
		if old.Equal(b) {
			return c.mu.saved[td], nil
		}
	}
	c.mu.good[td], c.mu.saved[td] = b, false
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
	return false, nil
}

// newer refuses a bundle whose sequence number goes back, or is there no more.
func newer(old, b *spiffebundle.Bundle) error {
	was, had := old.SequenceNumber()
	is, has := b.SequenceNumber()
	switch {
	case had && !has:
		return fmt.Errorf("its bundle has no sequence number, the last good one has %d", was)
	case had && is < was:
		return fmt.Errorf("its bundle has sequence number %d, the last good one %d", is, was)
	}
	return nil
}

func (c *Client) path(td spiffeid.TrustDomain) string { return filepath.Join(c.dir, td.Name()+".json") }

func (c *Client) load(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	text, err := readFile(c.path(td))
	if err != nil {
		return nil, err
	}
	return parseBundle(td, text)
}

// save writes a bundle aside, makes sure of it, and puts it in its place.
func (c *Client) save(b *spiffebundle.Bundle) error {
	text, err := b.Marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(c.dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if err := os.Rename(file.Name(), c.path(b.TrustDomain())); err != nil {
		return err
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
