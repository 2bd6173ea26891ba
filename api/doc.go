// Package api is the agent's front door: it decides who a caller is and what that caller may do, executes commands
// and reads anywhere in the cluster, and speaks HTTP about it.
//
// The common case is one Service for each agent:
//
//	service := api.New(api.Options{Local: local})
//	server := api.NewHTTPServer(service.Handler(api.Loopback), log)
//
// Any agent answers any request. Execute proposes here when this agent leads and otherwise asks the leader, one hop
// away; the leader answers a forwarded request itself or refuses it with not_leader, and never passes it on, so that
// no loop can form whatever two agents believe about the leader. A command is sent again only when it surely was not
// proposed; in every other case the answer is outcome_unknown. Reads are linearizable unless the caller asks for
// stale ones.
//
// Authority travels with the agent, not with the claim: a forwarded request carries the role that the origin gave its
// caller, and the leader lowers it to the role of the agent that forwarded it.
//
// Failures are *Error values. errors.go holds the one table from their codes to HTTP statuses and exit codes.
//
// Concurrency: everything exported is safe for concurrent use. New starts nothing and the package starts no
// goroutine; each request runs on the goroutine that brought it. No files are kept.
package api
