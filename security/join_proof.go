package security

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// Prove makes the answer to r one that only the core can have made: an agent that relays joins knows
// neither the token's secret nor its verify key, so it cannot hand a joiner roots, members or a role of
// its own. It drops members beyond MaxJoinMembers. Nothing may be changed afterwards.
func (a *JoinResponse) Prove(r JoinRequest, verifyKey []byte) {
	a.Members = a.Members[:min(len(a.Members), MaxJoinMembers)]
	a.Proof = a.proof(r, verifyKey)
}

// provedFor tells whether the answer was made, by a holder of the verify key, for exactly r.
func (a *JoinResponse) provedFor(r JoinRequest, verifyKey []byte) bool {
	return hmac.Equal(a.Proof, a.proof(r, verifyKey))
}

func (a *JoinResponse) proof(r JoinRequest, verifyKey []byte) []byte {
	grant := []byte{0}
	if a.CoreGrant {
		grant[0] = 1
	}
	members := make([][]byte, 0, 3*len(a.Members))
	for _, m := range a.Members {
		core := []byte{0}
		if m.Core {
			core[0] = 1
		}
		members = append(members, []byte(m.Name), []byte(m.Address), core)
	}
	mac := hmac.New(sha256.New, verifyKey)
	mac.Write(canonical("parley join answer v1", r.Proof, []byte(a.ClusterID),
		binary.BigEndian.AppendUint64(nil, a.BundleSequence), []byte(a.Role), grant,
		canonical("chain", a.Chain...), canonical("roots", a.Roots...), canonical("members", members...)))
	return mac.Sum(nil)
}
