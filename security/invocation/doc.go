// Package invocation asks systemd in which run a unit is: by its invocation id, which is another one each time that the unit is
// started. It speaks as much of D-Bus as that one question takes, and starts nothing: each question is a connection of its own
// that lasts for half a second at most, and what was learnt is remembered for a few seconds.
//
// An [Asker] is safe for concurrent use.
package invocation
