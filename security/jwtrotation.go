package security

import (
	"slices"
	"strings"
	"time"
)

// JWTRotation is what PlanJWTKey looks at: a core member's next key of tokens, and whoever has to know it.
type JWTRotation struct {
	Now       time.Time
	Published time.Time // when the next key came into the bundle
	Ends      time.Time // of the key that signs
	Force     bool      // an operator does not wait
	Agents    []TrustReport
}

// JWTStep is what a core member does about its next key of tokens.
type JWTStep struct {
	Sign     bool     // with the next key, from now on
	Laggards []string // whom it waits for, or waited for in vain; sorted
	Reason   string
}

// Settled reports whether it is time to ask the agents.
func (in JWTRotation) Settled() bool { return in.Force || in.Now.After(in.Published.Add(JWTKeySettle)) }

// PlanJWTKey decides. The next key signs when every agent that counts has said that it holds it, since the programs of one that
// does not would refuse the tokens. It waits for laggards as long as the key that signs can make tokens of full life;
// then nobody would have a token at all, which is worse than that some are refused on the hosts of the laggards.
func PlanJWTKey(in JWTRotation) JWTStep {
	if !in.Settled() {
		return JWTStep{Reason: "those who poll the bundle have until " + in.Published.Add(JWTKeySettle).UTC().Format(time.RFC3339)}
	}
	step := JWTStep{Sign: true, Reason: "everybody holds the next key of tokens"}
	for _, r := range in.Agents {
		if !r.Token {
			step.Laggards = append(step.Laggards, r.Node)
		}
	}
	slices.Sort(step.Laggards)
	late := strings.Join(step.Laggards, ", ")
	switch {
	case late == "":
	case in.Force:
		step.Reason = "an operator does not wait for " + late
	case in.Now.Add(MaxJWTTTL).After(in.Ends):
		step.Reason = "the key of tokens ends, nobody waits for " + late
	default:
		step.Sign, step.Reason = false, "these do not hold the next key of tokens yet: "+late
	}
	return step
}
