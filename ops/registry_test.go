package ops

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-mesh/parley/ops/slo"
)

// testRegistry shows a board, and advances its clock by 30 ms at each look.
func testRegistry(board *Board) (*Registry, []*slo.Counter) {
	var counters []*slo.Counter
	for _, o := range slo.Objectives() {
		counters = append(counters, slo.NewCounter(o))
	}
	var now time.Duration
	return NewRegistry(RegistryOptions{Version: "v1", Board: board, Counters: counters, Elapsed: func() time.Duration {
		now += 30 * time.Millisecond
		return now
	}}), counters
}

// scrape returns the lines of /metrics that are no comments.
func scrape(t *testing.T, r *Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d: %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return "\n" + strings.Join(lines, "\n") + "\n"
}

func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%q is not there", line)
		}
	}
}

// Before anything happened all events are there at 0, and no reading, burn rate or alert is.
func TestRegistryAtTheStart(t *testing.T) {
	r, _ := testRegistry(&Board{})
	text := scrape(t, r)
	wantLines(t, text, `parley_build_info{version="v1"} 1`,
		`parley_slo_events_total{result="good",slo="config-write",source="client"} 0`,
		`parley_slo_events_total{result="bad",slo="config-write",source="client"} 0`,
		`parley_slo_events_total{result="good",slo="config-write",source="probe"} 0`,
		`parley_slo_events_total{result="bad",slo="config-write",source="probe"} 0`,
		`parley_slo_events_total{result="good",slo="membership-accuracy",source="gossip"} 0`,
		`parley_slo_events_total{result="bad",slo="membership-accuracy",source="gossip"} 0`)
	for _, absent := range []string{"parley_core_", "parley_slo_burn", "parley_slo_budget", "parley_alert_", "parley_http_"} {
		if strings.Contains(text, "\n"+absent) {
			t.Errorf("%s... is there without data", absent)
		}
	}
	if !strings.Contains(text, "\ngo_goroutines ") || !strings.Contains(text, "\nprocess_") {
		t.Error("the figures of Go or of the process are missing")
	}
}

// What is on the board is shown; what has no data stays absent, so that a rule for absence can see it.
func TestRegistryShowsTheBoard(t *testing.T) {
	board := &Board{}
	r, counters := testRegistry(board)
	counters[0].Add(slo.SourceProbe, 5, 2)
	half := 0.5
	board.Publish(&Snapshot{
		Readings: Readings{CoreQuorumMargin: -1, "parley_not_listed": 1},
		Alerts: []AlertStatus{
			{ID: "quorum-margin", State: StateFiring, Severity: Page}, {ID: "no-leader", State: StatePending, Severity: Page}, {ID: "crash-loop", State: StateNoData, Severity: Page},
		},
		SLOs: []slo.Status{{Name: "config-write", BudgetRemaining: &half, Burn: map[string]*float64{"5m": &half, "1h": nil}}},
	})
	text := scrape(t, r)
	wantLines(t, text, "parley_core_quorum_margin -1", `parley_alert_firing{alert="quorum-margin",severity="page"} 1`,
		`parley_alert_firing{alert="no-leader",severity="page"} 0`, `parley_slo_burn_ratio{slo="config-write",window="5m"} 0.5`,
		`parley_slo_budget_remaining_ratio{slo="config-write"} 0.5`,
		`parley_slo_events_total{result="bad",slo="config-write",source="probe"} 2`)
	for _, absent := range []string{"parley_not_listed", "parley_core_leader_known", `alert="crash-loop"`, `window="1h"`} {
		if strings.Contains(text, absent) {
			t.Errorf("%s is there", absent)
		}
	}
}

// Requests are counted by endpoint and status; the time of a blocking one is not kept.
func TestRegistryTimesRequests(t *testing.T) {
	r, _ := testRegistry(&Board{})
	r.Request("GET /livez")(200, false)
	r.Request("GET /livez")(200, false)
	r.Request("GET /parley/v1/kv/*")(404, true)
	text := scrape(t, r)
	wantLines(t, text, `parley_http_requests_total{code="200",route="GET /livez"} 2`,
		`parley_http_requests_total{code="404",route="GET /parley/v1/kv/*"} 1`,
		`parley_http_request_seconds_bucket{code="200",route="GET /livez",le="0.01"} 0`,
		`parley_http_request_seconds_bucket{code="200",route="GET /livez",le="0.05"} 2`)
	if strings.Contains(text, `parley_http_request_seconds_count{code="404"`) {
		t.Error("the time of a blocking request is kept")
	}
}

// Writes that wait at the gate are counted by what came of it, from 0 on.
func TestRegistryCountsTheGate(t *testing.T) {
	r, _ := testRegistry(&Board{})
	wantLines(t, scrape(t, r), `parley_gate_wait_seconds_count{result="let_in"} 0`, `parley_gate_wait_seconds_count{result="refused"} 0`)
	r.Gate(20*time.Millisecond, false)
	r.Gate(2*time.Second, true)
	r.Gate(2*time.Second, true)
	wantLines(t, scrape(t, r), `parley_gate_wait_seconds_count{result="let_in"} 1`, `parley_gate_wait_seconds_sum{result="refused"} 4`,
		`parley_gate_wait_seconds_bucket{result="refused",le="1"} 0`, `parley_gate_wait_seconds_bucket{result="refused",le="5"} 2`)
}

// slowCollector keeps a scrape waiting.
type slowCollector struct{ entered, release chan struct{} }

func (slowCollector) Describe(chan<- *prometheus.Desc) {}
func (c slowCollector) Collect(chan<- prometheus.Metric) {
	c.entered <- struct{}{}
	<-c.release
}

// Four scrapes may be under way; the next is refused at once.
func TestScrapesAreBounded(t *testing.T) {
	r, _ := testRegistry(&Board{})
	slow := slowCollector{make(chan struct{}), make(chan struct{})}
	r.registry.MustRegister(slow)
	h := r.Handler()
	get := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code
	}
	codes := make(chan int)
	for range maxScrapes {
		go func() { codes <- get() }()
		<-slow.entered
	}
	if code := get(); code != http.StatusServiceUnavailable {
		t.Errorf("scrape %d is answered with %d", maxScrapes+1, code)
	}
	close(slow.release)
	for range maxScrapes {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("a scrape within the limit is answered with %d", code)
		}
	}
}

// What a request costs in metrics, beside what it would by looking its labels up each time.
func BenchmarkRequest(b *testing.B) {
	r := NewRegistry(RegistryOptions{Board: new(Board), Elapsed: func() time.Duration { return 0 }})
	b.Run("kept", func(b *testing.B) {
		for b.Loop() {
			r.Request("PUT /parley/v1/kv/*")(200, false)
		}
	})
	b.Run("looked up", func(b *testing.B) {
		for b.Loop() {
			r.requests.WithLabelValues("PUT /parley/v1/kv/*", "200").Inc()
			r.seconds.WithLabelValues("PUT /parley/v1/kv/*", "200").Observe(0)
		}
	})
}
