package ops

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/parley-mesh/parley/ops/slo"
)

// maxScrapes is how many may read /metrics at a time; one more is refused with 503.
const maxScrapes = 4

// requestBuckets are in seconds. A write within a zone takes milliseconds, and 1 s is where an objective ends.
var requestBuckets = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5}

// RegistryOptions say what a Registry shows.
type RegistryOptions struct {
	Version  string
	Board    *Board
	Counters []*slo.Counter
	Elapsed  func() time.Duration // boottime
}

// Registry is what /metrics shows: the newest Snapshot, the counters of the objectives, requests, and Go's
// and the process's own figures. Nothing is registered with Prometheus's global registry.
type Registry struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	gate     map[bool]prometheus.Observer // by whether it refused
	elapsed  func() time.Duration
	series   sync.Map // of answer to its *series, so that a request need not hash and compare labels
}

// answer is what tells the series of requests apart. There are few of them: both are ours.
type answer struct {
	route  string
	status int
}

// series are the metrics of one kind of answer.
type series struct {
	count   prometheus.Counter
	seconds prometheus.Observer // nil until the first that was not meant to wait, so that none of 0 is shown
	timed   sync.Once
}

// NewRegistry makes the metrics; nothing runs.
func NewRegistry(o RegistryOptions) *Registry {
	r := &Registry{
		registry: prometheus.NewRegistry(), elapsed: o.Elapsed,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_http_requests_total", Help: "Requests that were answered, by endpoint and HTTP status.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "parley_http_request_seconds", Help: "Time to the answer of requests that were not meant to wait for a change.",
			Buckets: requestBuckets,
		}, []string{"route", "code"}),
	}
	gate := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "parley_gate_wait_seconds", Help: "Time that writes waited which found no place among those under way, until they were let in or refused.",
		Buckets: requestBuckets,
	}, []string{"result"})
	r.gate = map[bool]prometheus.Observer{false: gate.WithLabelValues("let_in"), true: gate.WithLabelValues("refused")}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "parley_build_info", Help: "Always 1; the label names the version.", ConstLabels: prometheus.Labels{"version": o.Version},
	})
	build.Set(1)
	r.registry.MustRegister(
		r.requests, r.seconds, gate, build, newBoardCollector(o.Board, o.Counters),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Handler serves the metrics.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, DisableCompression: true})
}

// Request times one request of an endpoint. The returned function is called with its end; the time of a
// blocking one says nothing and is not kept.
func (r *Registry) Request(route string) func(status int, blocking bool) {
	began := r.elapsed()
	return func(status int, blocking bool) {
		s := r.seriesOf(answer{route, status})
		s.count.Inc()
		if !blocking {
			s.timed.Do(func() { s.seconds = r.seconds.WithLabelValues(route, strconv.Itoa(status)) })
			s.seconds.Observe((r.elapsed() - began).Seconds())
		}
	}
}

// Gate counts a write that had to wait for its place, or was refused one.
func (r *Registry) Gate(waited time.Duration, refused bool) {
	r.gate[refused].Observe(waited.Seconds())
}

func (r *Registry) seriesOf(a answer) *series {
	if s, ok := r.series.Load(a); ok {
		return s.(*series) //nolint:forcetypeassert // nothing else is in it
	}
	s, _ := r.series.LoadOrStore(a, &series{count: r.requests.WithLabelValues(a.route, strconv.Itoa(a.status))})
	return s.(*series) //nolint:forcetypeassert // nothing else is in it
}

// boardCollector shows a Board's newest Snapshot: a reading that is absent is an absent series.
type boardCollector struct {
	board    *Board
	counters []*slo.Counter
	readings map[string]*prometheus.Desc
	events   *prometheus.Desc
	burn     *prometheus.Desc
	budget   *prometheus.Desc
	firing   *prometheus.Desc
}

func newBoardCollector(board *Board, counters []*slo.Counter) *boardCollector {
	c := &boardCollector{
		board: board, counters: counters, readings: make(map[string]*prometheus.Desc),
		events: prometheus.NewDesc("parley_slo_events_total", "Events that count for an objective; seconds of agents for membership-accuracy.",
			[]string{"slo", "result", "source"}, nil),
		burn: prometheus.NewDesc("parley_slo_burn_ratio", "How many times faster than it may an error budget is used up.",
			[]string{"slo", "window"}, nil),
		budget: prometheus.NewDesc("parley_slo_budget_remaining_ratio", "Part of an error budget that is left of 30 days; negative when it is overdrawn.",
			[]string{"slo"}, nil),
		firing: prometheus.NewDesc("parley_alert_firing", "1 while an alert fires, else 0; absent while it has no data.",
			[]string{"alert", "severity"}, nil),
	}
	for _, m := range Metrics() {
		c.readings[m.Name] = prometheus.NewDesc(m.Name, m.Help, nil, nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *boardCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.readings {
		out <- d
	}
	out <- c.events
	out <- c.burn
	out <- c.budget
	out <- c.firing
}

// Collect implements prometheus.Collector.
func (c *boardCollector) Collect(out chan<- prometheus.Metric) {
	snapshot := c.board.Snapshot()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for name, value := range snapshot.Readings {
		if d, ok := c.readings[name]; ok {
			gauge(d, value)
		}
	}
	for _, counter := range c.counters {
		name := counter.Objective().Name
		counter.Each(func(source, result string, events uint64) {
			out <- prometheus.MustNewConstMetric(c.events, prometheus.CounterValue, float64(events), name, result, source)
		})
	}
	for _, s := range snapshot.SLOs {
		if s.BudgetRemaining != nil {
			gauge(c.budget, *s.BudgetRemaining, s.Name)
		}
		for window, burn := range s.Burn {
			if burn != nil {
				gauge(c.burn, *burn, s.Name, window)
			}
		}
	}
	for _, a := range snapshot.Alerts {
		if a.State != StateNoData {
			value := 0.0
			if a.State == StateFiring {
				value = 1
			}
			gauge(c.firing, value, a.ID, string(a.Severity))
		}
	}
}
