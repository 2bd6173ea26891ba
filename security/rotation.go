package security

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// RotationPolicy is when roots are replaced.
type RotationPolicy struct {
	RotateAfter time.Duration // the signing root is replaced at this age
	Before      time.Duration // or this long before its end, whatever comes first
	// Overlap is how long an old root stays in the bundle at least, after it signs nothing: as long as whatever was signed
	// below it may be valid, also where a part of the cluster did not hear of the change.
	Overlap time.Duration
	// A compromised root is replaced in haste: its successor waits at most HasteGate for agents that lag behind, and it
	// leaves the bundle after HasteLimit at the latest.
	HasteGate, HasteLimit time.Duration
}

// DefaultRotationPolicy replaces the root each year. It lasts ten: nine more to notice that rotation does not work.
func DefaultRotationPolicy() RotationPolicy {
	return RotationPolicy{
		RotateAfter: 365 * 24 * time.Hour, Before: 2 * 365 * 24 * time.Hour, Overlap: 96 * time.Hour,
		HasteGate: 10 * time.Second, HasteLimit: 10 * time.Minute,
	}
}

// RotationInput is what PlanRotation looks at.
type RotationInput struct {
	Now                        time.Time
	Roots                      []RootLife // of the bundle
	Signing, Next              [32]byte   // their hashes; Next is zero when none is being brought in
	SigningRoot, NextRoot      [32]byte   // what those chain to, where an authority above has signed them; zero: themselves
	External                   *RootLife  // the signing one, if an authority above has signed it
	Leave                      bool       // and a root of the cluster's own is to take its place
	Since, NextSince           time.Time  // since when the one signs and the other is in the bundle
	Wanted, Force, Compromised bool
	Agents                     []TrustReport // of everybody who counts
	Policy                     RotationPolicy
}

// RootLife is a root of the bundle.
type RootLife struct {
	Hash                [32]byte
	NotBefore, NotAfter time.Time
}

// TrustReport is what an agent has said of itself last.
type TrustReport struct {
	Node   string
	Heard  bool       // in this process of the leader; what follows is empty otherwise
	Holds  [][32]byte // the roots of its bundle
	Chains [][32]byte // the roots that its certificate, and its issuer if it has one, chain to

	Token     bool     // it holds the key of tokens that it was asked about
	TokenWait []string // whom its own next key of tokens waits for, if it is a core member
}

// A RotationKind is what a step does.
type RotationKind string

// The kinds. Wait means that there is a next or an old root, and that somebody holds it up.
const (
	RotationNone     RotationKind = "none"
	RotationPrepare  RotationKind = "prepare"
	RotationActivate RotationKind = "activate"
	RotationRetire   RotationKind = "retire"
	RotationWait     RotationKind = "wait"
)

// RotationStep is the one step that there is to do now.
type RotationStep struct {
	Kind     RotationKind
	Root     [32]byte // to activate or to retire
	Laggards []string // whom the rotation waits for, or waited for in vain
	Reason   string
}

// PlanRotation decides. It is pure, so that ten years of it can be rehearsed. Two rules carry all:
//
//  1. The next root signs only when everybody who counts has said that it holds the next root. Otherwise the certificates
//     of some would be unknown to others, who then could not even fetch the new bundle.
//  2. An old root leaves the bundle only when everybody has said that nothing of theirs chains to it, and when whatever
//     was signed below it by somebody who did not hear of the change has ended as well.
func PlanRotation(in RotationInput) RotationStep {
	if in.Next != ([32]byte{}) {
		return in.planNext()
	}
	if step, ok := in.planOld(); ok {
		return step
	}
	return in.planNew()
}

// planNext is about a root that is in the bundle and does not sign yet.
func (in RotationInput) planNext() RotationStep {
	late := in.laggards(func(r TrustReport) bool { return slices.Contains(r.Holds, orItself(in.NextRoot, in.Next)) })
	step := RotationStep{Kind: RotationActivate, Root: in.Next, Laggards: late, Reason: "everybody holds the next root"}
	switch {
	case len(late) == 0:
	case in.Force:
		step.Reason = "an operator does not wait for " + strings.Join(late, ", ")
	case in.Compromised && !in.Now.Before(in.NextSince.Add(in.Policy.HasteGate)):
		step.Reason = "the root is compromised, nobody waits for " + strings.Join(late, ", ")
	default:
		step.Kind, step.Reason = RotationWait, "these do not hold the next root yet: "+strings.Join(late, ", ")
	}
	return step
}

// planOld is about a root that signs nothing any more; ok is false when there is none, or when another one is needed first.
func (in RotationInput) planOld() (step RotationStep, ok bool) {
	i := slices.IndexFunc(in.Roots, func(r RootLife) bool { return r.Hash != orItself(in.SigningRoot, in.Signing) })
	if i < 0 || in.Wanted && in.Compromised && len(in.Roots) < MaxRoots-1 {
		return step, false
	}
	old := in.Roots[i].Hash
	late := in.laggards(func(r TrustReport) bool { return r.Heard && !slices.Contains(r.Chains, old) })
	step = RotationStep{Kind: RotationRetire, Root: old, Laggards: late, Reason: "nothing chains to the old root"}
	switch {
	case in.Compromised && !in.Now.Before(in.Since.Add(in.Policy.HasteLimit)):
		step.Reason = "the root is compromised"
	case len(late) > 0:
		step.Kind, step.Reason = RotationWait, "certificates of these chain to the old root: "+strings.Join(late, ", ")
	case in.Compromised:
	case in.Now.Before(in.Since.Add(in.Policy.Overlap)):
		step.Kind = RotationWait
		step.Reason = "what the old root signed may be valid until " + in.Since.Add(in.Policy.Overlap).UTC().Format(time.RFC3339)
	}
	return step, true
}

// planNew is about when another root is due.
func (in RotationInput) planNew() RotationStep {
	switch due, ok := in.Due(); {
	case in.External != nil && !in.Leave:
		if in.Wanted || !in.Now.Before(due) {
			return RotationStep{Kind: RotationWait, Reason: "the authority was signed by another one, which has to sign the next: run parley ca csr, and then " +
				"parley ca external with what it signed; this one ends at " + in.External.NotAfter.UTC().Format(time.RFC3339)}
		}
	case in.Wanted:
		return RotationStep{Kind: RotationPrepare, Reason: "an operator has asked for it"}
	case ok && !in.Now.Before(due):
		return RotationStep{Kind: RotationPrepare, Reason: fmt.Sprintf("the root was due at %s", due.UTC().Format(time.RFC3339))}
	}
	return RotationStep{Kind: RotationNone}
}

// Due is when the signing root is replaced by itself, or when an authority that another one has signed should be: a third
// of its life is left for people to notice.
func (in RotationInput) Due() (time.Time, bool) {
	if e := in.External; e != nil {
		return e.NotAfter.Add(-e.NotAfter.Sub(e.NotBefore) / 3), true
	}
	for _, r := range in.Roots {
		if r.Hash == in.Signing {
			byAge, byEnd := r.NotBefore.Add(in.Policy.RotateAfter), r.NotAfter.Add(-in.Policy.Before)
			if byEnd.Before(byAge) {
				return byEnd, true
			}
			return byAge, true
		}
	}
	return time.Time{}, false
}

func orItself(root, authority [32]byte) [32]byte {
	if root == ([32]byte{}) {
		return authority
	}
	return root
}

// laggards names whose report does not say what it should, sorted.
func (in RotationInput) laggards(fine func(TrustReport) bool) []string {
	var out []string
	for _, r := range in.Agents {
		if !fine(r) {
			out = append(out, r.Node)
		}
	}
	slices.Sort(out)
	return out
}
