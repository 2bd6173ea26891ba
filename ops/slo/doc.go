// Package slo counts good and bad events against a promise, and says how fast its error budget burns.
//
//	t := slo.NewTracker(objective)
//	t.Add(now, 12, 1)                   // 12 good events and a bad one since the last time
//	status := t.Status(now)             // SLI, budget left, burn rate of each window
//	excess, ok := t.Excess(now, slo.Page) // above 1 somebody is to be woken; !ok: no data
//
// A burn rate of 1 uses up the budget in exactly 30 days. The package is pure: now is boottime, passed in.
// A Counter is safe for concurrent use; a Tracker and an Accuracy belong to one goroutine. A Tracker
// takes 21 KB, whatever it counts.
package slo
