package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
	"github.com/parley-mesh/parley/security/workload"
)

// TestPastEveryLife: two days go by for all hosts at once, so that all certificates have ended, those of agents and programs and
// those of the issuers. Whether the agents were suspended or stopped meanwhile: within a minute, without anybody's help, all is whole.
// The core members open the root and certify themselves, the agent outside the core comes back by its host key. The control: right
// after the jump every certificate has ended.
func TestPastEveryLife(t *testing.T) {
	const away = 2*security.IssuerTTL + time.Hour
	for how, stopped := range map[string]bool{"suspended": false, "stopped": true} {
		t.Run(how, func(t *testing.T) {
			var ahead atomic.Int64
			now := func() time.Time { return clock.System().Add(time.Duration(ahead.Load())) }
			agents := startClusterBy(t, func(*config.Config) {}, now, now, now, now, now)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			if _, err := agents[0].SetEntry(ctx, client.EntrySpec{Name: "web", Selectors: []string{"uid:7"}}); err != nil {
				t.Fatal(err)
			}
			for _, r := range agents {
				if _, err := awaitIdentity(ctx, r.agent.identities, "uid:7"); err != nil {
					t.Fatal(err)
				}
			}
			if stopped {
				for _, r := range agents {
					r.stop()
				}
			}
			ahead.Store(int64(away))
			for _, r := range agents {
				if ends := r.agent.source.NotAfter(); !now().After(ends) {
					t.Errorf("control: the certificate of %s is valid until %s, and it is %s", r.name, ends, now())
				}
				if a := r.agent.issuer.authority.Load(); a != nil && !now().After(a.NotAfter()) {
					t.Errorf("control: the issuer of %s is valid until %s, and it is %s", r.name, a.NotAfter(), now())
				}
			}
			if stopped {
				for i, r := range agents {
					agents[i] = startBy(t, r.agent.cfg, now, now)
				}
			}
			began := clock.Boottime()
			within(t, "all is whole again", func(ctx context.Context) error {
				for _, r := range agents {
					if err := wholeBy(ctx, r, now()); err != nil {
						return fmt.Errorf("%s: %w", r.name, err)
					}
				}
				return nil
			})
			t.Logf("whole again after %s", clock.Boottime()-began)
		})
	}
}

// wholeBy wants an agent to have valid certificates of its own and for programs, a leader, everybody alive, and to take a write.
func wholeBy(ctx context.Context, r *running, now time.Time) error {
	if ends := r.agent.source.NotAfter(); now.After(ends) {
		return fmt.Errorf("its certificate ended at %s", ends)
	}
	all, _, err := r.agent.identities.Identities(ctx, []workload.Selector{"uid:7"})
	if err != nil {
		return err
	}
	if ends := all[0].Chain[1].NotAfter; now.After(all[0].Chain[0].NotAfter) || now.After(ends) {
		return errors.New("the certificate of a program, or its issuer, has ended")
	}
	members, err := r.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.State != "alive" {
			return fmt.Errorf("it holds %s %s", m.Name, m.State)
		}
	}
	_, err = r.Put(ctx, "after", []byte(r.name), client.PutOptions{})
	return err
}
