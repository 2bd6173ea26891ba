package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/parley-mesh/parley/clock"
)

// MaxSigningRoots is how many roots the bundle may hold when another one is added: agents read no more than one above it.
const MaxSigningRoots = 3

// A RootHash names a root: the SHA-256 of its certificate.
type RootHash [32]byte

// Authority says which root of the bundle signs, and where its replacement is. Its zero value, before the first
// replacement, means the newest root of the bundle.
type Authority struct {
	Signing, Next RootHash    // zero: see above; none is being brought in
	Since         clock.Stamp // since when Signing signs, 0 for the first one
	NextSince     clock.Stamp // since when Next is in the bundle
	Wanted        bool        // a person has asked for another root
	Force         bool        // Next signs although agents do not hold it yet
	Compromised   bool        // the root that signs, or signed last, is not to be trusted any longer than it takes
}

// RootPrepare brings the next root into the bundle. It signs nothing yet. Seals holds its key for every node that holds the
// signing one, and RecoverySealed for the recovery key if there is one.
type RootPrepare struct {
	Root           []byte // DER
	Seals          []Seal
	RecoverySealed []byte
}

// RootSeal stores the key of the next root, sealed to a node that came into the core after it was brought in.
type RootSeal struct {
	Node   string
	Sealed []byte
}

// RootActivate has the next root sign.
type RootActivate struct{ Root RootHash }

// RootRetire takes a root that signs nothing any more out of the bundle.
type RootRetire struct{ Root RootHash }

// CARotate asks for another root: by the rules, with Force without waiting for agents that lag behind, with Compromised
// without waiting at all.
type CARotate struct{ Force, Compromised bool }

func (RootPrepare) kind() kind  { return kindRootPrepare }
func (RootSeal) kind() kind     { return kindRootSeal }
func (RootActivate) kind() kind { return kindRootActivate }
func (RootRetire) kind() kind   { return kindRootRetire }
func (CARotate) kind() kind     { return kindCARotate }

func (c RootPrepare) check() error {
	if len(c.Root) == 0 || len(c.Root) > MaxRootBytes {
		return fmt.Errorf("the root has %d bytes: use 1 to %d", len(c.Root), MaxRootBytes)
	}
	if len(c.Seals) == 0 || len(c.Seals) > MaxCoreMembers {
		return fmt.Errorf("%d seals: use 1 to %d", len(c.Seals), MaxCoreMembers)
	}
	if len(c.RecoverySealed) > MaxSealedBytes {
		return fmt.Errorf("the sealed root has %d bytes: use at most %d", len(c.RecoverySealed), MaxSealedBytes)
	}
	for _, s := range c.Seals {
		if err := CoreSeal(s).check(); err != nil {
			return err
		}
	}
	return nil
}

func (c RootSeal) check() error     { return CoreSeal(c).check() }
func (c RootActivate) check() error { return c.Root.check() }
func (c RootRetire) check() error   { return c.Root.check() }
func (c CARotate) check() error     { return nil }

func (h RootHash) check() error {
	if h == (RootHash{}) {
		return errors.New("the hash of the root is missing")
	}
	return nil
}

func (c RootPrepare) append(b []byte) []byte {
	b = binary.AppendUvarint(appendBytes(b, c.Root), uint64(len(c.Seals)))
	for _, s := range c.Seals {
		b = appendBytes(appendString(b, s.Node), s.Sealed)
	}
	return appendBytes(b, c.RecoverySealed)
}

func readRootPrepare(r *reader) Command {
	c := RootPrepare{Root: r.bytes(MaxRootBytes, "root")}
	for range r.count(MaxCoreMembers, "seals") {
		c.Seals = append(c.Seals, Seal{Node: r.string(MaxNameBytes, "node name"), Sealed: r.bytes(MaxSealedBytes, "seal")})
	}
	c.RecoverySealed = r.bytes(MaxSealedBytes, "seal")
	return c
}

func (c RootSeal) append(b []byte) []byte { return appendBytes(appendString(b, c.Node), c.Sealed) }

func readRootSeal(r *reader) Command {
	return RootSeal{Node: r.string(MaxNameBytes, "node name"), Sealed: r.bytes(MaxSealedBytes, "seal")}
}

func (c RootActivate) append(b []byte) []byte { return append(b, c.Root[:]...) }
func (c RootRetire) append(b []byte) []byte   { return append(b, c.Root[:]...) }
func readRootActivate(r *reader) Command      { return RootActivate{r.fixed32("root")} }
func readRootRetire(r *reader) Command        { return RootRetire{r.fixed32("root")} }

func (c CARotate) append(b []byte) []byte { return appendBool(appendBool(b, c.Force), c.Compromised) }
func readCARotate(r *reader) Command {
	return CARotate{Force: r.bool("force"), Compromised: r.bool("compromised")}
}

// recoveryName stands for the recovery key among the seals of the next root. No node can have it.
const recoveryName = "@recovery"

func (c RootPrepare) apply(a *applying) Result {
	return a.prepareNext(sha256.Sum256(c.Root), c.Root, c.Seals, c.RecoverySealed)
}

// prepareNext brings the root (DER) of the next authority into the bundle, and keeps its sealed keys.
func (a *applying) prepareNext(hash RootHash, root []byte, seals []Seal, recoverySealed []byte) Result {
	authority, bundle := a.s.authority(), a.s.bundle()
	var have []string
	a.s.scan(TableSeal, "", "", func(r *record) bool { have = append(have, r.key); return true })
	var given []string
	for _, s := range seals {
		given = append(given, s.Node)
	}
	slices.Sort(given)
	_, recovery := a.s.get(TableRecovery, "")
	inBundle := slices.ContainsFunc(bundle.Roots, func(der []byte) bool { return bytes.Equal(der, root) })
	switch {
	case authority.Next == hash:
		return Result{} // a retry
	case authority.Next != RootHash{}:
		return refuse(CodeExists, "the next root is there already")
	case a.s.signing() == hash:
		return refuse(CodeExists, "this one signs already")
	case !inBundle && len(bundle.Roots) >= MaxSigningRoots:
		return refuse(CodeLimit, "the bundle holds %d roots: an old one has to go first", len(bundle.Roots))
	case !slices.Equal(have, given):
		return refuse(CodeConflict, "the core has changed: seal the root for its members of now")
	case recovery != (len(recoverySealed) > 0):
		return refuse(CodeConflict, "the recovery key has changed: seal the root again")
	}
	for _, s := range seals {
		a.set(TableNextSeal, s.Node, encodeSeal(s))
	}
	if recovery {
		a.set(TableNextSeal, recoveryName, encodeSeal(Seal{Node: recoveryName, Sealed: recoverySealed}))
	}
	authority.Signing = a.s.signing()
	authority.Next, authority.NextSince, authority.Wanted = hash, a.at, false
	a.setAuthority(authority)
	if !inBundle {
		a.setRoots(append(slices.Clone(bundle.Roots), root))
	}
	return Result{}
}

func (c RootSeal) apply(a *applying) Result {
	if _, sealed := a.s.get(TableSeal, c.Node); !sealed || a.s.authority().Next == (RootHash{}) {
		return refuse(CodeConflict, "there is no next root, or %q is not in the core", c.Node)
	}
	a.set(TableNextSeal, c.Node, encodeSeal(Seal(c)))
	return Result{}
}

func (c RootActivate) apply(a *applying) Result {
	authority := a.s.authority()
	if authority.Signing == c.Root {
		return Result{} // a retry
	}
	if authority.Next != c.Root {
		return refuse(CodeConflict, "this root is not the next one")
	}
	missing := ""
	a.s.scan(TableSeal, "", "", func(r *record) bool {
		if _, ok := a.s.get(TableNextSeal, r.key); !ok {
			missing = r.key
		}
		return missing == ""
	})
	if missing != "" {
		return refuse(CodeConflict, "the next root is not sealed to %q yet", missing)
	}
	if r, ok := a.s.get(TableNextSeal, recoveryName); ok {
		old, _ := a.s.get(TableRecovery, "")
		recovery := must(decodeRecovery(old.row))
		recovery.Sealed = must(decodeSeal(r.row)).Sealed
		a.set(TableRecovery, "", encodeRecovery(recovery))
	}
	for _, s := range rows(a.s, TableNextSeal, func(r *record) (Seal, error) { return decodeSeal(r.row) }) {
		a.set(TableNextSeal, s.Node, nil)
		if s.Node != recoveryName {
			a.set(TableSeal, s.Node, encodeSeal(s))
		}
	}
	authority.Signing, authority.Next, authority.Since, authority.NextSince = c.Root, RootHash{}, a.at, 0
	authority.Force = false
	if len(a.s.bundle().Roots) == 1 {
		authority.Compromised = false // the same root above both: there is none to take out of the bundle
	}
	a.setAuthority(authority)
	a.dropUpstreams()
	return Result{}
}

func (c RootRetire) apply(a *applying) Result {
	authority, bundle := a.s.authority(), a.s.bundle()
	if c.Root == a.s.rootOf(a.s.signing()) || c.Root == a.s.rootOf(authority.Next) {
		return refuse(CodeInvalid, "this root signs, or is about to")
	}
	left := slices.DeleteFunc(slices.Clone(bundle.Roots), func(root []byte) bool { return sha256.Sum256(root) == c.Root })
	if len(left) == len(bundle.Roots) {
		return Result{} // a retry
	}
	a.setRoots(left)
	if len(left) == 1 {
		authority.Compromised = false // what was not to be trusted is gone
		a.setAuthority(authority)
	}
	return Result{}
}

func (c CARotate) apply(a *applying) Result {
	authority := a.s.authority()
	if authority.Next == (RootHash{}) {
		authority.Wanted = true
	}
	authority.Signing = a.s.signing()
	authority.Force = authority.Force || c.Force
	authority.Compromised = authority.Compromised || c.Compromised
	if authority != a.s.authority() {
		a.setAuthority(authority)
	}
	return Result{}
}

// abandonNext forgets the next root, whose key nobody may be able to open after a recovery. It stays in the bundle until
// it is retired: nothing was signed with it.
func (a *applying) abandonNext() {
	for _, s := range rows(a.s, TableNextSeal, func(r *record) (Seal, error) { return decodeSeal(r.row) }) {
		a.set(TableNextSeal, s.Node, nil)
	}
	if authority := a.s.authority(); authority.Next != (RootHash{}) {
		authority.Next, authority.NextSince = RootHash{}, 0
		a.setAuthority(authority)
		a.dropUpstreams()
	}
}

func (a *applying) setAuthority(x Authority) { a.set(TableAuthority, "", encodeAuthority(x)) }

func (a *applying) setRoots(roots [][]byte) {
	a.set(TableBundle, "", encodeBundle(Bundle{Sequence: a.s.bundle().Sequence + 1, Roots: roots}))
}

func encodeAuthority(x Authority) []byte {
	b := append(append(newRow(96), x.Signing[:]...), x.Next[:]...)
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(x.Since)), uint64(x.NextSince))
	return appendBool(appendBool(appendBool(b, x.Wanted), x.Force), x.Compromised)
}

func decodeAuthority(row []byte) (Authority, error) {
	r := openRow(row)
	x := Authority{Signing: r.fixed32("root"), Next: r.fixed32("root"), Since: clock.Stamp(r.uvarint()), NextSince: clock.Stamp(r.uvarint())}
	x.Wanted, x.Force, x.Compromised = r.bool("wanted"), r.bool("force"), r.bool("compromised")
	return x, r.done()
}

func (s *store) authority() Authority {
	r, ok := s.get(TableAuthority, "")
	if !ok {
		return Authority{}
	}
	return must(decodeAuthority(r.row))
}

func (s *store) bundle() Bundle {
	r, ok := s.get(TableBundle, "")
	if !ok {
		return Bundle{}
	}
	return must(decodeBundle(r.row))
}

// signing is the root that signs, zero before there is a bundle.
func (s *store) signing() RootHash {
	if x := s.authority(); x.Signing != (RootHash{}) {
		return x.Signing
	}
	if roots := s.bundle().Roots; len(roots) > 0 {
		return sha256.Sum256(roots[len(roots)-1])
	}
	return RootHash{}
}

// Authority returns where the roots are; Signing is set as soon as there is a bundle.
func (v *View) Authority() Authority {
	x := v.s.authority()
	x.Signing = v.s.signing()
	return x
}

// Root returns the certificate (DER) of a root in the bundle, or of an authority that another one has signed.
func (v *View) Root(hash RootHash) ([]byte, bool) {
	if u, ok := v.s.upstream(hash); ok {
		return u.Chain[0], true
	}
	for _, root := range v.Bundle().Roots {
		if sha256.Sum256(root) == hash {
			return root, true
		}
	}
	return nil, false
}

// NextSeal returns the key of the next root, sealed to a node.
func (v *View) NextSeal(node string) (Seal, bool) {
	r, ok := v.s.get(TableNextSeal, node)
	if !ok {
		return Seal{}, false
	}
	return must(decodeSeal(r.row)), true
}

// Seals returns the names of the nodes that the signing root is sealed to.
func (v *View) Seals() (nodes []string) {
	v.s.scan(TableSeal, "", "", func(r *record) bool { nodes = append(nodes, r.key); return true })
	return nodes
}
