package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// Limits of admissions, part of the meaning of version 1 of AdmissionSet.
const (
	MaxAdmissions        = 64
	MaxAdmissionKeys     = 8    // authorities of one
	MaxAdmissionKeyBytes = 8192 // DER of a certificate, or a public key in SSH's wire format
	MaxAdmissionText     = 253  // of the pattern of names, and of the suffix
)

// AdmissionKind says what a host shows.
type AdmissionKind string

// The kinds.
const (
	AdmissionX509 AdmissionKind = "x509" // a certificate below one of the authorities, and its key
	AdmissionSSH  AdmissionKind = "ssh"  // an OpenSSH host certificate by one of the authorities, and its key
)

// Valid reports whether this binary knows the kind.
func (k AdmissionKind) Valid() bool { return k == AdmissionX509 || k == AdmissionSSH }

// Admission lets hosts join that prove who they are by a certificate of somebody else's authority. The name that a host gets is
// in its certificate; it has no say in it.
type Admission struct {
	Name        string
	Kind        AdmissionKind
	Authorities [][]byte
	Names       string // which nodes may join: a name, in which each * stands for any characters
	Suffix      string // cut from the name in the certificate, which must end with it
	Role        policy.Role
	Core        bool // joiners get the core grant

	CreatedAt clock.Stamp
	CreatedBy string
}

// AdmissionSet makes an admission, or with Replace writes it anew. The same once more changes nothing.
type AdmissionSet struct {
	Admission Admission
	Replace   bool
}

// AdmissionDelete ends one. Hosts that it admitted stay.
type AdmissionDelete struct{ Name string }

func (AdmissionSet) kind() kind    { return kindAdmissionSet }
func (AdmissionDelete) kind() kind { return kindAdmissionDelete }

func (c AdmissionSet) check() error {
	a := c.Admission
	if err := CheckNodeName(a.Name); err != nil {
		return fmt.Errorf("name of the admission: %w", err)
	}
	switch {
	case !a.Kind.Valid():
		return fmt.Errorf("kind %.40q: use %s or %s", a.Kind, AdmissionX509, AdmissionSSH)
	case len(a.Authorities) == 0 || len(a.Authorities) > MaxAdmissionKeys:
		return fmt.Errorf("%d authorities: use 1 to %d", len(a.Authorities), MaxAdmissionKeys)
	case a.Names == "" || len(a.Names) > MaxAdmissionText || len(a.Suffix) > MaxAdmissionText:
		return fmt.Errorf("names %.40q, suffix %.40q: say which nodes may join, like web-*, in 1 to %d characters", a.Names, a.Suffix, MaxAdmissionText)
	case !a.Role.Valid():
		return fmt.Errorf("role %.40q is unknown", a.Role)
	case a.CreatedAt != 0 || a.CreatedBy != "":
		return errors.New("a new admission has a past: leave created empty")
	}
	for _, key := range a.Authorities {
		if len(key) == 0 || len(key) > MaxAdmissionKeyBytes {
			return fmt.Errorf("an authority of %d bytes: use 1 to %d", len(key), MaxAdmissionKeyBytes)
		}
	}
	return nil
}

func (c AdmissionDelete) check() error { return CheckNodeName(c.Name) }

// NodeOf returns the node name that a name in a certificate stands for, or why it is none that may join.
func (a Admission) NodeOf(certified string) (string, error) {
	node, ok := strings.CutSuffix(certified, a.Suffix)
	if !ok {
		return "", fmt.Errorf("the name %.80q in the certificate does not end with %q", certified, a.Suffix)
	}
	if err := CheckNodeName(node); err != nil {
		return "", fmt.Errorf("the name in the certificate is no node's: %w", err)
	}
	if !matches(a.Names, node) {
		return "", fmt.Errorf("the admission is for nodes %q, and not for %q", a.Names, node)
	}
	return node, nil
}

// matches reports whether a name is what a pattern stands for. It takes time in proportion to both.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return name == pattern
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok || !strings.HasSuffix(name, last) {
		return false
	}
	name = strings.TrimSuffix(name, last)
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(name, part)
		if !found {
			return false
		}
		name = after
	}
	return true
}

func (c AdmissionSet) append(b []byte) []byte {
	return appendBool(appendAdmission(b, c.Admission), c.Replace)
}

func readAdmissionSet(r *reader) Command {
	return AdmissionSet{Admission: readAdmission(r), Replace: r.bool("replace")}
}

func (c AdmissionDelete) append(b []byte) []byte { return appendString(b, c.Name) }

func readAdmissionDelete(r *reader) Command {
	return AdmissionDelete{Name: r.string(MaxNameBytes, "name of an admission")}
}

func (c AdmissionSet) apply(a *applying) Result {
	set := c.Admission
	old, known := a.s.admission(set.Name)
	if !known && a.s.tables[TableAdmission].rows >= MaxAdmissions {
		return refuse(CodeLimit, "there are %d admissions, the most that there can be", MaxAdmissions)
	}
	set.CreatedAt, set.CreatedBy = a.at, a.caller
	switch {
	case known && old.sameTerms(set):
		return Result{} // a retry
	case known && !c.Replace:
		return refuse(CodeExists, "there is an admission %q, with other terms", set.Name)
	}
	a.set(TableAdmission, set.Name, encodeAdmission(set))
	return Result{}
}

func (a Admission) sameTerms(b Admission) bool {
	return a.Kind == b.Kind && a.Names == b.Names && a.Suffix == b.Suffix && a.Role == b.Role && a.Core == b.Core &&
		slices.EqualFunc(a.Authorities, b.Authorities, func(x, y []byte) bool { return string(x) == string(y) })
}

func (c AdmissionDelete) apply(a *applying) Result {
	if _, known := a.s.admission(c.Name); !known {
		return refuse(CodeNotFound, "there is no admission %q", c.Name)
	}
	a.set(TableAdmission, c.Name, nil)
	return Result{}
}

func appendAdmission(b []byte, a Admission) []byte {
	b = appendString(appendString(b, a.Name), string(a.Kind))
	b = binary.AppendUvarint(b, uint64(len(a.Authorities)))
	for _, key := range a.Authorities {
		b = appendBytes(b, key)
	}
	b = appendString(appendString(appendString(b, a.Names), a.Suffix), string(a.Role))
	return appendBool(b, a.Core)
}

func readAdmission(r *reader) Admission {
	a := Admission{Name: r.string(MaxNameBytes, "name of an admission"), Kind: AdmissionKind(r.string(8, "kind of an admission"))}
	for range r.count(MaxAdmissionKeys, "authorities") {
		a.Authorities = append(a.Authorities, r.bytes(MaxAdmissionKeyBytes, "authority"))
	}
	a.Names, a.Suffix = r.string(MaxAdmissionText, "names"), r.string(MaxAdmissionText, "suffix")
	a.Role, a.Core = readRole(r), r.bool("core")
	return a
}

func encodeAdmission(a Admission) []byte {
	b := appendAdmission(newRow(1024), a)
	return appendString(binary.AppendUvarint(b, uint64(a.CreatedAt)), a.CreatedBy)
}

func decodeAdmission(row []byte) (Admission, error) {
	r := openRow(row)
	a := readAdmission(&r)
	a.CreatedAt, a.CreatedBy = clock.Stamp(r.uvarint()), r.string(MaxCallerBytes, "caller")
	return a, r.done()
}

func (s *store) admission(name string) (Admission, bool) {
	r, ok := s.get(TableAdmission, name)
	if !ok {
		return Admission{}, false
	}
	return must(decodeAdmission(r.row)), true
}

// Admissions returns all of them, by name.
func (v *View) Admissions() []Admission {
	return rows(v.s, TableAdmission, func(r *record) (Admission, error) { return decodeAdmission(r.row) })
}

// Admission returns the one of that name.
func (v *View) Admission(name string) (Admission, bool) { return v.s.admission(name) }
