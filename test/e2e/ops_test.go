package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/ops/lab"
)

// alertWithin is how long after a kill an alert has to fire.
const alertWithin = 15 * time.Second

// TestAlertFiresAfterAKill: when a core member is killed, every other agent pages within 15 s and names the
// dead member first, be it a follower or the leader; after its restart the alert and the cause are gone. The
// control is the same cluster before the kill: nothing fires and nothing is wrong.
func TestAlertFiresAfterAKill(t *testing.T) {
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	for _, role := range []string{"voter", "leader"} {
		whole(t, clients)
		eventually(t, 20*time.Second, "control: all is well", func(ctx context.Context) error { return everywhere(clients, "", allWell(ctx)) })
		victim := agentInRole(t, clients, role)
		began := time.Now()
		kill(t, l, victim)
		eventually(t, alertWithin, "the alert fires everywhere", func(ctx context.Context) error {
			return everywhere(clients, victim, pages(ctx, victim))
		})
		t.Logf("all agents page and name %s (%s) %s after the kill", victim, role, time.Since(began).Round(10*time.Millisecond))
		restart(t, l, victim)
		eventually(t, 20*time.Second, "all is well again", func(ctx context.Context) error { return everywhere(clients, "", allWell(ctx)) })
	}
}

// everywhere asks every agent but one.
func everywhere(clients map[string]*client.Client, but string, ask func(*client.Client) error) error {
	for name, c := range clients {
		if name == but {
			continue
		}
		if err := ask(c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// allWell wants quiet alerts, and no cause.
func allWell(ctx context.Context) func(*client.Client) error {
	return func(c *client.Client) error {
		alerts, err := c.Alerts(ctx)
		if err != nil {
			return err
		}
		for _, a := range alerts {
			if a.State == "firing" || a.State == "pending" {
				return fmt.Errorf("alert %s is %s", a.ID, a.State)
			}
		}
		e, err := c.Explain(ctx)
		if err == nil && !e.Healthy {
			err = fmt.Errorf("causes %+v", e.Causes)
		}
		return err
	}
}

// pages wants quorum-margin to fire, and the victim as the first cause.
func pages(ctx context.Context, victim string) func(*client.Client) error {
	return func(c *client.Client) error {
		alerts, err := c.Alerts(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(alerts, func(a client.Alert) bool {
			return a.ID == "quorum-margin" && a.State == "firing" && a.Severity == "page"
		}) {
			return fmt.Errorf("quorum-margin does not fire: %+v", alerts[:3])
		}
		e, err := c.Explain(ctx)
		if err != nil {
			return err
		}
		if len(e.Causes) == 0 || e.Causes[0].Cause != "core-member-dead" || e.Causes[0].Subject != victim || e.Causes[0].Runbook != "server-down" {
			return fmt.Errorf("first cause is not the death of %s: %+v", victim, e.Causes)
		}
		return nil
	}
}

// TestQuorumGone: with two of three voters killed the remaining agents live and are not ready, and list what
// still works; status answers, and no alert is silent about it. With the quorum back they are ready again.
func TestQuorumGone(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute})
	clients := clientsOf(t, l)
	whole(t, clients)
	for name, c := range clients {
		if ready, text, err := c.Ready(t.Context()); err != nil || !ready {
			t.Errorf("control: %s is ready %t, %v: %s", name, ready, err, text)
		}
	}
	victims := []string{agentInRole(t, clients, "leader"), agentInRole(t, clients, "voter")}
	for _, v := range victims {
		kill(t, l, v)
	}
	for _, a := range l.Agents {
		if !slices.Contains(victims, a.Name) {
			eventually(t, 15*time.Second, a.Name+" without a quorum", func(ctx context.Context) error { return degraded(ctx, a, clients[a.Name]) })
		}
	}
	for _, v := range victims {
		restart(t, l, v)
	}
	eventually(t, 30*time.Second, "ready again", func(ctx context.Context) error {
		return everywhere(clients, "", func(c *client.Client) error {
			ready, text, err := c.Ready(ctx)
			if err == nil && !ready {
				err = fmt.Errorf("not ready:\n%s", text)
			}
			return err
		})
	})
}

// degraded wants an agent that lives, is not ready, and says which half of it works.
func degraded(ctx context.Context, a *lab.Agent, c *client.Client) error {
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable} {
		got, err := statusCode(ctx, "http://"+a.HTTP+path)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s is %d, want %d", path, got, want)
		}
	}
	_, text, err := c.Ready(ctx)
	if err != nil {
		return err
	}
	for _, line := range []string{"[+]discovery", "[+]stale_reads", "[+]runbooks", "[-]writes", "[-]linearizable_reads", "not ready"} {
		if !strings.Contains(text, line) {
			return fmt.Errorf("/readyz?verbose lacks %q:\n%s", line, text)
		}
	}
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if s.Ready || s.Name != a.Name {
		return fmt.Errorf("status says ready %t, name %s", s.Ready, s.Name)
	}
	alerts, err := c.Alerts(ctx)
	if err != nil {
		return err
	}
	for _, id := range []string{"no-leader", "quorum-margin"} {
		if !slices.ContainsFunc(alerts, func(x client.Alert) bool { return x.ID == id && x.State == "firing" }) {
			return fmt.Errorf("%s does not fire: %+v", id, alerts[:3])
		}
	}
	return nil
}

// TestBudgetBurns: without a quorum the probes alone burn the budget of config-write until it pages, and when the
// quorum is back the shortest window is clean while the longer ones remember. Windows pass sixty times faster here. The control is the
// cluster before: its budget does not burn.
func TestBudgetBurns(t *testing.T) {
	t.Parallel() // it mostly waits
	l := startLab(t, lab.Options{ReplaceAfter: 10 * time.Minute, Settings: map[string]string{"ops.time_scale": "60"}})
	clients := clientsOf(t, l)
	whole(t, clients)
	watching := clients[agentInRole(t, clients, "voter")]
	eventually(t, 30*time.Second, "control: enough events, and no page", func(ctx context.Context) error {
		return configWrite(ctx, watching, func(s client.SLO) bool { return s.Good >= 300 && len(s.Firing) == 0 && s.TimeScale == 60 })
	})
	victims := []string{agentInRole(t, clients, "leader")}
	for name, c := range clients {
		if core, err := c.Core(t.Context()); err == nil && c != watching && isVoter(core, name) && name != victims[0] {
			victims = append(victims, name)
		}
	}
	for _, v := range victims {
		kill(t, l, v)
	}
	eventually(t, 30*time.Second, "the budget burns", func(ctx context.Context) error {
		return configWrite(ctx, watching, func(s client.SLO) bool {
			burn := s.Burn["5m"]
			return burn != nil && *burn > 14.4 && slices.Contains(s.Firing, "slo-config-write-page")
		})
	})
	for _, v := range victims {
		restart(t, l, v)
	}
	eventually(t, 30*time.Second, "it burns no longer", func(ctx context.Context) error {
		return configWrite(ctx, watching, func(s client.SLO) bool { return s.Burn["5m"] != nil && *s.Burn["5m"] < 1 && *s.Burn["1h"] > 1 })
	})
}

// configWrite wants the objective as check does.
func configWrite(ctx context.Context, c *client.Client, check func(client.SLO) bool) error {
	slos, err := c.SLOs(ctx)
	if err != nil {
		return err
	}
	for _, s := range slos {
		if s.Name == "config-write" && check(s) {
			return nil
		}
	}
	return fmt.Errorf("objectives %+v", slos)
}

func isVoter(core client.CoreStatus, name string) bool {
	return slices.ContainsFunc(core.Voters, func(v client.CoreMember) bool { return v.Name == name })
}

func statusCode(ctx context.Context, url string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}
