// Package client talks to one agent over its admin socket, http, https, or the framed RPC of its mesh port:
//
//	c, err := client.New("unix:///var/lib/parley/admin.sock")
//	pair, err := c.Get(ctx, "web/1", client.ReadOptions{})
//
// Over RPC many calls share one connection and few system calls, which is for programs that read and write much. It takes
// mutual TLS with a certificate of the trust domain, whose role decides what the calls may do:
//
//	c, err := client.New("rpc://10.0.0.1:8310", client.WithTLS(config), client.WithConnections(4))
//
// All calls are the same there, except that a backup is not streamed; and one stream carries a thousand watches
// ([Client.OpenWatches]).
//
// Every failure is an *Error with a code, a hint and the exit code for a command that ends with it. A write whose
// connection broke is outcome_unknown: it may have happened.
//
// A Client is safe for concurrent use and keeps connections open; Close drops the idle ones. Every call ends with its
// context, and has no other time limit.
package client
