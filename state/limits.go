package state

// Limits of what a command may carry. They are part of the meaning of version 1 of the commands:
// changing one would let two binaries disagree about the same entry.
const (
	MaxKeyBytes     = 1 << 10   // a key; a prefix may be empty but not longer
	MaxValueBytes   = 512 << 10 // a value
	MaxCommandBytes = 1 << 20   // an encoded command, envelope included
	MaxTxnOps       = 128       // compares, then-ops and else-ops together
	MaxTxnAnswer    = 1 << 20   // bytes that the gets of one transaction may return together
	treeRowBytes    = 96        // counted for a row of a tree besides its key and value
	MaxDeletePrefix = 1 << 17   // keys that one delete-prefix may delete

	MaxNameBytes    = 63        // a node name
	MaxCallerBytes  = 512       // a caller's SPIFFE ID or uid
	MaxZoneBytes    = 128       // a zone
	MaxTrustBytes   = 255       // a trust domain
	MaxAddressBytes = 256       // an address
	MaxHostKeyBytes = 512       // a host key, SubjectPublicKeyInfo DER
	SealKeyBytes    = 32        // an X25519 public key
	VerifyBytes     = 32        // a token's verification key
	MaxSealedBytes  = 4 << 10   // a sealed root key
	MaxRoots        = 16        // roots in the bundle
	MaxRootBytes    = 8 << 10   // one root certificate, DER
	maxSessionBytes = 128       // a session id in a key's row
	maxRowBytes     = 768 << 10 // any encoded row

	MaxNodes       = 100_000                 // nodes, those that left included
	MaxTokens      = 10_000                  // tokens that are not yet swept away
	MaxTokenUses   = 1000                    // joins that one token allows
	MaxCoreMembers = 64                      // Raft ids not retired
	MaxHoldMillis  = 7 * 24 * 60 * 60 * 1000 // of one core hold: a week
	MaxRetired     = 256                     // retired Raft ids that are still listed; older ones are forgotten

	MaxSessions         = 1 << 16 // sessions
	MaxNodeSessions     = 1 << 14 // sessions bound to one node
	MaxSessionNameBytes = 256     // a session's name
	MaxSessionChecks    = 64      // checks that a session names
	MaxCheckNameBytes   = 256     // one of them
	MaxSessionKeys      = 1 << 10 // keys that one session holds: they are written together when it ends
	MaxHolds            = 1 << 17 // keys that are held or in their lock-delay
	maxSweep            = 1 << 10 // lock-delays that one command forgets

	maxTableKeyBytes = MaxKeyBytes + 16 // the key of any row: a key behind a session id
)

const (
	// MaxTombstones is how many deleted keys are remembered. One more, and all but the newest
	// half are forgotten together: rarely, because a forgotten tombstone costs every waiting
	// prefix one look.
	MaxTombstones = 1 << 16

	// MaxListRows bounds View.List and View.Keys.
	MaxListRows = 1 << 16

	// TokenRetention is how long, in milliseconds, a token stays listed after it expired.
	TokenRetention = 24 * 60 * 60 * 1000
)

// Version is the newest cluster version that this binary can apply, and OldestVersion the oldest
// whose encodings it can still produce.
const (
	Version       uint32 = 1
	OldestVersion uint32 = 1
)
