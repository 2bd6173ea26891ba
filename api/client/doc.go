// Package client talks to one agent over its admin socket, http or https:
//
//	c, err := client.New("unix:///var/lib/parley/admin.sock")
//	pair, err := c.Get(ctx, "web/1", client.ReadOptions{})
//
// Every failure is an *Error with a code, a hint and the exit code for a command that ends with it. A write whose
// connection broke is outcome_unknown: it may have happened.
//
// A Client is safe for concurrent use and keeps connections open; Close drops the idle ones. Every call ends with its
// context, and has no other time limit.
package client
