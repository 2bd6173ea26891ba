package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Markdown is everything for people: what it is about, ratios with floors and targets, and the figures behind them.
func (r Result) Markdown() string {
	var b strings.Builder
	r.about(&b)
	r.ratios(&b)
	r.loads(&b)
	r.others(&b)
	return b.String()
}

func (r Result) about(b *strings.Builder) {
	fmt.Fprintf(b, "Parley %s beside etcd %s, %s. %s, Linux %s, %s, data on %s.\n%s; the median of %d runs, with the lowest and highest.\n\n",
		r.About.Parley, r.About.Etcd, r.About.At.UTC().Format("2006-01-02 15:04 UTC"),
		r.About.Machine, r.About.Kernel, r.About.Go, r.About.Disk, r.About.How, len(r.Runs))
}

// ratios is the table that says whether the goals are reached.
func (r Result) ratios(b *strings.Builder) {
	b.WriteString("| ratio to etcd, larger is better | floor | target | to etcd as it comes | | to etcd with a separate HTTP port | |\n|---|---|---|---|---|---|---|\n")
	for _, g := range Goals {
		fmt.Fprintf(b, "| %s | %s | %s |", g.title(), goal(g.Floor), goal(g.Target))
		for _, base := range []string{Etcd, EtcdBest} {
			ratios := g.Ratios(r, base)
			if g.Base != "" && g.Base != base {
				b.WriteString(" | |")
				continue
			}
			if len(ratios) == 0 {
				b.WriteString(" not measured | |")
				continue
			}
			fmt.Fprintf(b, " %s | %s |", spread(ratios), g.Verdict(Median(ratios)))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

func (g Goal) title() string {
	what := g.What
	switch g.Metric {
	case P99:
		what += ", p99"
	case RSS:
		what += ", memory"
	case Share:
		what += ", processor"
	}
	if g.Clients > 0 {
		what += fmt.Sprintf(", %d clients", g.Clients)
	}
	if g.Side != Own {
		what += ", " + strings.TrimPrefix(g.Side, "parley, ")
	}
	return what
}

// loads are the cells of closed loops.
func (r Result) loads(b *strings.Builder) {
	b.WriteString("| what | clients | server, and how it is asked | per second | p50 ms | p99 ms | CPU us an operation, all three servers | client's CPU us | peak memory, all three, MiB |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, what := range []string{Put, Get, Stale} {
		for _, c := range r.cells(what) {
			fmt.Fprintf(b, "| %s | %d | %s |", what, c.Clients, c.Side)
			for _, metric := range []string{PerSecond, P50, P99, CPU, ClientCPU, RSS} {
				fmt.Fprintf(b, " %s |", spread(r.all(c, metric)))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n")
}

// cells of something that was measured, in the order in which they were, by clients first.
func (r Result) cells(what string) []Cell {
	var cells []Cell
	for _, run := range r.Runs {
		for _, m := range run.Measures {
			if m.What == what && !slices.Contains(cells, m.cell()) {
				cells = append(cells, m.cell())
			}
		}
	}
	slices.SortStableFunc(cells, func(a, b Cell) int { return a.Clients - b.Clients })
	return cells
}

// others are the measures that are no closed loops.
func (r Result) others(b *strings.Builder) {
	b.WriteString("| what | server | figures |\n|---|---|---|\n")
	for _, what := range []string{FailoverEqual, Failover, RestartOne, RestartAll, Idle, Watch, Overload} {
		for _, c := range r.cells(what) {
			var parts []string
			if each := r.each(c); len(each) > 0 {
				parts = append(parts, fmt.Sprintf("median %s ms of %s", number(Median(each)), list(each)))
			}
			for _, shown := range otherMetrics {
				if values := r.all(c, shown.metric); len(values) > 0 && (shown.metric != Took || len(parts) == 0) {
					parts = append(parts, fmt.Sprintf(shown.format, spread(values)))
				}
			}
			if c.What == Overload {
				if kept := r.all(c, Kept); len(kept) > 0 && Median(kept) < keptFloor {
					parts = append(parts, "**below the floor of 0.8**")
				}
			}
			if note := r.note(c); note != "" {
				parts = append(parts, note)
			}
			fmt.Fprintf(b, "| %s | %s | %s |\n", what, c.Side, strings.Join(parts, ", "))
		}
	}
}

var otherMetrics = []struct{ metric, format string }{
	{Took, "%s ms"}, {CPUTime, "%s ms of processor time"}, {Share, "%s %% of a core for all three"}, {RSS, "%s MiB for all three"},
	{Kept, "%s of the peak is done"}, {KeptCPU, "%s of it for as much processor time"}, {PerSecond, "%s a second"}, {P50, "p50 %s ms"}, {P99, "p99 %s ms"},
}

func (r Result) note(c Cell) string {
	for _, run := range r.Runs {
		for _, m := range run.Measures {
			if m.cell() == c && m.Note != "" {
				return m.Note
			}
		}
	}
	return ""
}

// spread is the median, and the lowest and highest where they differ by more than a twentieth.
func spread(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	low, high, mid := slices.Min(values), slices.Max(values), Median(values)
	if len(values) == 1 || high-low <= mid/20 {
		return number(mid)
	}
	return fmt.Sprintf("%s (%s to %s)", number(mid), number(low), number(high))
}

func list(values []float64) string {
	var out []string
	for _, v := range slices.Sorted(slices.Values(values)) {
		out = append(out, number(v))
	}
	return strings.Join(out, ", ")
}

// goal is empty where there is none.
func goal(v float64) string {
	if v == 0 {
		return ""
	}
	return number(v)
}

// number has three digits that say something.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return thousands(int64(math.Round(v)))
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
