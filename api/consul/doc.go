// Package consul serves the /v1 dialect that existing clients of that name speak, as a thin layer over api.Service:
//
//	service.Mount(consul.Routes(consul.Options{Datacenter: "dc1"})...)
//
// It serves /v1/kv, /v1/txn, /v1/session and /v1/status, and of /v1/agent, /v1/catalog and /v1/health what concerns
// agents. It translates only: parameters that count by presence, answers of true and false, values in base64, the X-Consul headers on every
// read, plain-text errors. An index of keys is a revision of the native API, and belongs to what was read: the key's
// own, a prefix's highest, the table's for a missing key. What gossip knows has an index of this agent's own, and
// counting for it (roster) is the only thing that the package remembers.
//
// Written from the public documentation, observed behavior and the MPL-licensed clients. Handlers are safe for
// concurrent use.
package consul
