// Package httpconn makes connections of plain HTTP/1 cost net/http less:
//
//	server := &http.Server{ConnContext: httpconn.Context}
//	err := server.Serve(httpconn.NewListener(l))
//
// For each request net/http sets six to eight deadlines, and reads a byte from the connection in a goroutine to see whether the
// client has gone. Nearly always no deadline passes and no client goes, and the request is over within a millisecond. So:
//
//   - A deadline is remembered, and the runtime's poller told when a call has to wait and the poller would wake it too late. Where the
//     poller wakes it too early, for a deadline of a request that is over, it is told the right one, and the wait goes on. Deadlines pass
//     when they would on a plain connection.
//   - The byte is not read. The read of net/http returns at once with nothing, and after 25 to 50 ms a goroutine begins to wait for
//     whether the client has gone, without taking a byte off the connection, if the request is still being served. When the client has
//     gone, or the connection is closed, the context ends that Context gave to net/http. One timer does it for all connections of a
//     listener, and does not run while no request is young.
//
// What differs from a plain connection: a request is cancelled by up to 50 ms later, so that one that is answered by then is answered although
// its client has closed its half of the connection; and a read deadline that a handler sets does not cancel its request. After http.Hijacker
// took a connection, only deadlines are lazy.
//
// On systems other than Linux the listener is returned as it was. A connection is safe for concurrent use, as all of package net's are.
package httpconn
