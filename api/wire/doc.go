// Package wire is what an agent and [api/client] say to each other inside the frames of parley-rpc/1: the requests, their
// answers, and the items of a watch. It knows bytes and nothing else, so that a client brings no agent with it.
//
//	body := wire.Get{Key: "web/1"}.Append(nil)
//	answer, failure, err := wire.ParseRows(bytes)
//
// Every message starts with a version byte; integers are uvarints, texts and bytes are preceded by their length. A decoder
// allocates no more than its input justifies and refuses what is left over. Byte slices of a decoded message are parts of
// the input. Everything here is safe for concurrent use.
package wire
