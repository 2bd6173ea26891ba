// Package ops judges an agent from facts that others gathered: which of its checks pass, and what to do
// about those that do not.
//
//	report := ops.Check(facts) // facts are plain values
//
// Everything here is a function of its arguments. It reads no clock, file or network, starts nothing,
// and is safe for concurrent use.
package ops
