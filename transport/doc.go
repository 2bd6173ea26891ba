// Package transport owns the mesh port and what is spoken on it between agents: the TLS listener
// that hands each connection to its protocol by ALPN, the framed RPC codec (see WIRE.md), and the
// pool that keeps one connection to each node.
//
// The common case: the agent builds one [Mesh] and one [Server], registers methods, and calls
// through one [Pool].
//
//	server := transport.NewServer(transport.ServerOptions{Log: log})
//	server.Handle("op.read", readHandler) // or HandleBegun, for calls that need no goroutine while they wait
//	mesh := transport.NewMesh(transport.MeshOptions{Listener: l, TLS: tlsConfig, Identify: identify})
//	mesh.Handle(transport.ALPNRPC, func(ctx context.Context, conn *tls.Conn, peer transport.Peer) {
//		server.ServeConn(ctx, conn, peer)
//	})
//	go mesh.Run(ctx)
//
//	pool := transport.NewPool(transport.PoolOptions{Dial: dial})
//	answer, err := pool.Call(ctx, "node-2", "op.read", body)
//
// # Errors
//
// Call and Stream return *[Error]. Two codes matter to a caller that wants to retry: with
// [CodeUnavailable] the other side never saw the request; with [CodeOutcomeUnknown] it may have
// acted on it. Never report the second as a failure.
//
// # Concurrency and memory
//
// Mesh, Server and Pool are safe for concurrent use once their handlers are registered. A
// connection end has two goroutines, a reader and a writer. The reader never waits for the writer,
// so two agents cannot block each other; the writer drains everything that is queued into one
// Write. All that a peer can make us hold has a limit, listed in WIRE.md. The package keeps no
// files and reads no clock except to set deadlines on connections.
package transport
