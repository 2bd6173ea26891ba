package report

// Sides, as measures name them.
const (
	HTTP     = "parley, HTTP/1.1"
	HTTPS    = "parley, HTTP/1.1 over mutual TLS"
	RPC      = "parley, framed RPC over mutual TLS"
	Own      = "parley" // where the way of asking does not matter
	Etcd     = "etcd, as it comes"
	EtcdBest = "etcd, separate HTTP port"
)

// What is measured.
const (
	Put           = "put"
	Get           = "linearizable get"
	Stale         = "stale get"
	FailoverEqual = "failover at 1000/100 ms"
	Failover      = "failover at the defaults"
	RestartOne    = "restart of one"
	RestartAll    = "restart of all three"
	Idle          = "idle"
	Watch         = "watch: acknowledgement to event"
	Overload      = "ten times the load that saturates"
)

// Metrics.
const (
	PerSecond = "per_second"
	P50       = "p50_ms"
	P99       = "p99_ms"
	CPU       = "cpu_us_per_op"
	ClientCPU = "client_cpu_us_per_op"
	RSS       = "rss_mib"
	Took      = "ms"
	CPUTime   = "cpu_ms"
	Share     = "cpu_percent"
	Kept      = "goodput_of_peak"
	KeptCPU   = "goodput_of_peak_per_cpu_second"
)

// Goal is a ratio that has to be reached. Of two figures of which more is better it is ours to the baseline's, otherwise
// the baseline's to ours: larger is always better, and 1 is equal. Target 0 is none.
type Goal struct {
	What    string
	Clients int
	Side    string // ours
	Metric  string
	Base    string // the baseline; empty is etcd, in both set-ups
	Floor   float64
	Target  float64
}

func (g Goal) moreIsBetter() bool { return g.Metric == PerSecond }

// ratio is the goal's in one run, against this baseline.
func (g Goal) ratio(r Run, base string) (float64, bool) {
	ours, ok := r.value(Cell{g.What, g.Clients, g.Side}, g.Metric)
	theirs, found := r.value(Cell{g.What, g.Clients, base}, g.Metric)
	if !ok || !found || ours == 0 || theirs == 0 {
		return 0, false
	}
	if g.moreIsBetter() {
		return ours / theirs, true
	}
	return theirs / ours, true
}

// Ratios are the goal's in all runs.
func (g Goal) Ratios(r Result, base string) []float64 {
	var ratios []float64
	for _, run := range r.Runs {
		if ratio, ok := g.ratio(run, base); ok {
			ratios = append(ratios, ratio)
		}
	}
	return ratios
}

// Verdict of a ratio.
func (g Goal) Verdict(ratio float64) string {
	switch {
	case g.Floor == 0:
		return ""
	case ratio < g.Floor:
		return "below the floor"
	case g.Target == 0:
		return "pass"
	case ratio < g.Target:
		return "floor reached"
	}
	return "target reached"
}

// Goals are the floors and targets that the core is held to, and ratios of the same cells that have none.
var Goals = []Goal{
	{What: Put, Clients: 1, Side: HTTP, Metric: PerSecond, Floor: 1.5, Target: 2},
	{What: Put, Clients: 64, Side: HTTP, Metric: PerSecond, Floor: 3, Target: 4.5},
	{What: Put, Clients: 512, Side: HTTP, Metric: PerSecond, Floor: 4, Target: 6},
	{What: Put, Clients: 64, Side: HTTP, Metric: P99, Floor: 3, Target: 5},
	{What: Put, Clients: 512, Side: HTTP, Metric: P99, Floor: 3, Target: 5},
	{What: Get, Clients: 64, Side: HTTP, Metric: PerSecond, Floor: 3.5, Target: 5},
	{What: Get, Clients: 512, Side: HTTP, Metric: PerSecond},
	{What: Stale, Clients: 512, Side: HTTP, Metric: PerSecond},
	{What: Put, Clients: 64, Side: HTTPS, Metric: PerSecond},
	{What: Put, Clients: 512, Side: HTTPS, Metric: PerSecond},
	{What: Get, Clients: 64, Side: HTTPS, Metric: PerSecond},
	{What: Get, Clients: 512, Side: HTTPS, Metric: PerSecond},
	{What: Put, Clients: 1, Side: RPC, Metric: PerSecond, Floor: 1.5, Target: 2},
	{What: Put, Clients: 64, Side: RPC, Metric: PerSecond, Floor: 4.5, Target: 6.5},
	{What: Put, Clients: 512, Side: RPC, Metric: PerSecond, Floor: 7, Target: 12},
	{What: Put, Clients: 64, Side: RPC, Metric: P99},
	{What: Put, Clients: 512, Side: RPC, Metric: P99},
	{What: Get, Clients: 64, Side: RPC, Metric: PerSecond, Floor: 5, Target: 8},
	{What: Get, Clients: 512, Side: RPC, Metric: PerSecond, Floor: 8, Target: 12},
	{What: Stale, Clients: 512, Side: RPC, Metric: PerSecond},
	{What: FailoverEqual, Side: Own, Metric: Took, Base: Etcd, Floor: 1 / 0.85},
	{What: Failover, Side: Own, Metric: Took, Base: Etcd, Floor: 2},
	{What: RestartOne, Side: Own, Metric: Took, Base: Etcd, Floor: 4},
	{What: RestartAll, Side: Own, Metric: Took, Base: Etcd, Floor: 4},
	{What: Idle, Side: Own, Metric: Share, Base: Etcd, Floor: 1},
	{What: Idle, Side: Own, Metric: RSS, Base: Etcd, Floor: 1},
	{What: Watch, Side: Own, Metric: P99, Base: Etcd},
}

// keptFloor is the share of the peak that has to be done when ten times as much is asked for.
const keptFloor = 0.8
