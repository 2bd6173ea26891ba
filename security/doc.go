// Package security owns who an agent is and whom it talks to: the host keys, the certificate
// authority, the agent's certificate and its renewal, every TLS setting of the program, join tokens
// and the protocol by which a new host enters the cluster.
//
// The common case is a running agent. It loads what init or a join left in the data directory and
// takes its TLS settings from there:
//
//	host, err := security.LoadHost(dir)
//	src, err := security.NewSource(security.SourceOptions{Dir: dir, TrustDomain: td, Node: node,
//		Host: host, Now: clock.System, HostKeyOf: view.HostKeyOf})
//	listener.TLS = src.ServerTLS(transport.ALPNRPC, transport.ALPNRaft, transport.ALPNJoin, transport.ALPNRekey)
//	tls.Client(conn, src.ClientTLS("web1", transport.ALPNRPC))
//	go security.NewRenewer(security.RenewerOptions{Source: src, Renew: askTheCore}).Run(ctx)
//
// The first agent of a cluster makes everything with [InitIdentity]; every other one calls [Join]
// with a [Token].
//
// # Keys
//
// A host has two keys for life. The host key (P-256) is what the cluster pins at join: a name
// belongs to it. The seal key (X25519) opens what the cluster keeps secret for this host alone, which
// is the key of the root. Where the host has a TPM that part can be done by a key in it instead, which never leaves it
// ([KeyStore], package tpm). The key of the certificate (the leaf) is new at every renewal, and the host
// key signs it (see [LeafRequest]), so that whoever steals an issuer still cannot speak for an agent
// whose host key the cluster knows.
//
// The root lives ten years and signs intermediates only. In its place there may be an authority that a CA of the user's has
// signed ([CheckUpstream]); then the bundle has the root of that one. Its key exists in memory while one is
// signed, and otherwise sealed, once for each core member ([SealRoot]). A core member holds its own
// intermediate for 24 hours ([Authority]) and signs leaves of one hour with it, without any write to
// the replicated state.
//
// # Trust
//
// Every connection is TLS 1.3 with a certificate on both sides and no session resumption, because a
// resumed session skips VerifyPeerCertificate. What a peer shows is judged in one function, used for
// TCP and for QUIC: a chain to a root of the current bundle, one SPIFFE ID of the form
// spiffe://TD/parley/agent/NODE, the node that was dialled, and the signature by the host key that
// the applied state pins for that node. The one exception is the join protocol, where the client shows
// no certificate. A joiner has none yet: it judges the cluster by the root hashes of its token before it
// sends a byte. An agent that was off for longer than its certificate lived has none any more: it judges
// the cluster by its own bundle and is known by its host key ([Rekey]). An expired certificate opens
// nothing, anywhere.
//
// # Room for more
//
// The rest of the identity design has its places: a recovery key is one more recipient of [SealRoot];
// the gate of a root rotation asks which sequence each [Source.Bundle] has; eviction fills
// [SourceOptions].Denied and closes what is open; the secret of each renewal, which tells a copy of a host, is the
// business of [Ratchet]; the Workload API signs with the same [Authority] and a template of
// its own.
//
// # Concurrency and files
//
// [Source] and [Authority] publish what they hold through atomic pointers: a handshake reads the
// certificate and the bundle of its own moment, a rotation takes effect at the next handshake and
// never touches an open connection. Nothing here starts a goroutine except by a Run method, which
// blocks and owns it. Time is always asked of an injected function.
//
// All files are in the directory identity under the data directory, mode 0600, written by rename
// after an fsync: host.key, seal.key, leaf.key, leaf.pem, bundle.pem and, on a core member,
// issuer.key and issuer.pem. A key file that others can read is refused. A crash between two files
// that belong together leaves a pair that still loads (see keyAndChain).
package security
