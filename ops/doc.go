// Package ops says how an agent is doing: readings become alerts, alerts and facts become ranked causes.
//
// The agent gathers Readings once a second and hands them on:
//
//	readings := ops.Readings{ops.CoreLeaderKnown: 1, ops.CoreQuorumMargin: 1}
//	transitions := alarms.Look(now, readings)       // ok, pending, firing, no_data
//	board.Publish(&ops.Snapshot{Readings: readings, Alerts: alarms.Status()})
//	explanation := board.Snapshot().Explain()       // what is wrong, worst first, and what to run
//
// Check and Precheck judge an agent, and a host before it gets one, from facts that others gathered.
//
// What is judged is in tables: Metrics (every reading, with its help), Alerts (every alert, with its
// runbook), and the objectives of package slo. A reading that is absent means that there is no data, which
// is never taken for good news.
//
// The alert*.go, explain*.go, reading*.go, check.go and precheck.go files are pure: time is a value passed in. A Board and a
// Registry are safe for concurrent use; an Alarms belongs to one goroutine. The package keeps no files.
package ops
