package security

import (
	"slices"
	"testing"
	"time"
)

// TestPlanJWTKey: the next key of tokens waits for those who poll, then for those who have not said that they hold it, and for
// nobody when an operator says so or the key in use can make no token of full life.
func TestPlanJWTKey(t *testing.T) {
	published := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ends := published.Add(JWTKeyTTL / 2)
	holds, lacks, silent := TrustReport{Node: "a1", Heard: true, Token: true}, TrustReport{Node: "a3", Heard: true}, TrustReport{Node: "a2"}
	for _, c := range []struct {
		name   string
		after  time.Duration
		force  bool
		agents []TrustReport
		sign   bool
		late   []string
	}{
		{"just published", time.Minute, false, []TrustReport{holds}, false, nil},
		{"all hold it", 11 * time.Minute, false, []TrustReport{holds}, true, nil},
		{"one lacks it, one is silent", 11 * time.Minute, false, []TrustReport{lacks, holds, silent}, false, []string{"a2", "a3"}},
		{"an operator does not wait", time.Minute, true, []TrustReport{holds, silent}, true, []string{"a2"}},
		{"the key in use lasts", JWTKeyTTL/2 - MaxJWTTTL, false, []TrustReport{silent}, false, []string{"a2"}},
		{"the key in use ends", JWTKeyTTL/2 - MaxJWTTTL + time.Second, false, []TrustReport{silent}, true, []string{"a2"}},
	} {
		got := PlanJWTKey(JWTRotation{Now: published.Add(c.after), Published: published, Ends: ends, Force: c.force, Agents: c.agents})
		if got.Sign != c.sign || !slices.Equal(got.Laggards, c.late) || got.Reason == "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
