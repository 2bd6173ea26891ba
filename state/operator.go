package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// MaxOperators is how many operators there can be. It is part of the meaning of version 1 of OperatorBind.
const MaxOperators = 4096

// Operator is the identity of a person or a program that is no agent. A certificate in its name counts for exactly as
// long as this row names the certificate's key.
type Operator struct {
	Name       string
	Role       policy.Role
	KeyHash    [32]byte // SHA-256 of the key's SubjectPublicKeyInfo
	CreatedAt  clock.Stamp
	CreatedBy  string // the caller of the command that bound the key
	Generation uint64 // one more each time the name is bound anew
}

// OperatorBind binds a name to a key and a role. A name that has another key or role is bound anew only with Replace,
// and one that nobody has only without. The same once more changes nothing. The result's Body is the row
// (DecodeOperator).
type OperatorBind struct {
	Name    string
	Role    policy.Role
	KeyHash [32]byte
	Replace bool
}

// OperatorRemove takes an identity back: its certificate counts no more, wherever the command has been applied.
type OperatorRemove struct{ Name string }

func (OperatorBind) kind() kind   { return kindOperatorBind }
func (OperatorRemove) kind() kind { return kindOperatorRemove }

// CheckOperatorName returns nil for a name that an operator may have. The rules are those of nodes.
func CheckOperatorName(name string) error {
	if err := CheckNodeName(name); err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	return nil
}

func (c OperatorBind) check() error {
	switch {
	case !c.Role.Valid() || c.Role == policy.None:
		return fmt.Errorf("role %.40q: an operator's is discovery, local or operator", c.Role)
	case c.KeyHash == [32]byte{}:
		return errors.New("the key hash is missing")
	}
	return CheckOperatorName(c.Name)
}

func (c OperatorRemove) check() error { return CheckOperatorName(c.Name) }

func (c OperatorBind) append(b []byte) []byte {
	b = appendString(appendString(b, c.Name), string(c.Role))
	return appendBool(append(b, c.KeyHash[:]...), c.Replace)
}

func readOperatorBind(r *reader) Command {
	return OperatorBind{
		Name: r.string(MaxNameBytes, "operator name"), Role: readRole(r), KeyHash: r.fixed32("key hash"), Replace: r.bool("replace"),
	}
}

func (c OperatorRemove) append(b []byte) []byte { return appendString(b, c.Name) }

func readOperatorRemove(r *reader) Command {
	return OperatorRemove{Name: r.string(MaxNameBytes, "operator name")}
}

func (c OperatorBind) apply(a *applying) Result {
	old, known := a.s.operator(c.Name)
	if known && old.KeyHash == c.KeyHash && old.Role == c.Role {
		return Result{Body: EncodeOperator(old)} // a retry
	}
	switch {
	case known && !c.Replace:
		return refuse(CodeExists, "there is an operator %q already, with another key or role: choose another name, or replace it", c.Name)
	case !known && c.Replace:
		return refuse(CodeNotFound, "there is no operator %q to replace", c.Name)
	case !known && a.s.tables[TableOperator].rows >= MaxOperators:
		return refuse(CodeLimit, "there are %d operators, the most that there can be: remove one", MaxOperators)
	}
	if other := a.operatorWith(c.KeyHash); other != "" && other != c.Name {
		return refuse(CodeExists, "this key belongs to the operator %q: make a key for each", other)
	}
	o := Operator{
		Name: c.Name, Role: c.Role, KeyHash: c.KeyHash, CreatedAt: a.at, CreatedBy: a.caller, Generation: old.Generation + 1,
	}
	a.setOperator(o)
	return Result{Body: EncodeOperator(o)}
}

// operatorWith is the name that a key is bound to, "" if none is.
func (a *applying) operatorWith(keyHash [32]byte) (name string) {
	a.s.scan(TableOperator, "", "", func(r *record) bool {
		if o := must(DecodeOperator(r.row)); o.KeyHash == keyHash {
			name = o.Name
		}
		return name == ""
	})
	return name
}

func (c OperatorRemove) apply(a *applying) Result {
	if _, known := a.s.operator(c.Name); !known {
		return refuse(CodeNotFound, "there is no operator %q", c.Name)
	}
	a.set(TableOperator, c.Name, nil)
	return Result{}
}

func (a *applying) setOperator(o Operator) { a.set(TableOperator, o.Name, EncodeOperator(o)) }

// recoverOperators makes the identities of a new epoch. Those that the later copy of the public state has are the ones
// that counted last. A backup alone does not know who was removed since it was made, so none of its operators counts:
// they are added again by who restores it.
func (a *applying) recoverOperators(v, known *View, backup bool) {
	keep := v.Operators()
	switch {
	case known.laterThan(v):
		keep = known.Operators()
	case backup:
		keep = nil
	}
	for _, o := range rows(a.s, TableOperator, func(r *record) (Operator, error) { return DecodeOperator(r.row) }) {
		a.set(TableOperator, o.Name, nil)
	}
	for _, o := range keep {
		a.setOperator(o)
	}
}

// laterThan reports whether v, which may be nil, is a later state of the same cluster than other.
func (v *View) laterThan(other *View) bool {
	if v == nil {
		return false
	}
	mine, theirs := v.Cluster().Epoch.Counter, other.Cluster().Epoch.Counter
	return mine > theirs || mine == theirs && v.Revision() > other.Revision()
}

// EncodeOperator returns the operator's row; OperatorBind answers with one.
func EncodeOperator(o Operator) []byte {
	b := appendString(newRow(160), o.Name)
	b = appendString(b, string(o.Role))
	b = append(b, o.KeyHash[:]...)
	b = binary.AppendUvarint(b, uint64(o.CreatedAt))
	b = appendString(b, o.CreatedBy)
	return binary.AppendUvarint(b, o.Generation)
}

// DecodeOperator reads what EncodeOperator wrote. The error is ErrMalformed, wrapped.
func DecodeOperator(row []byte) (Operator, error) {
	r := openRow(row)
	o := Operator{Name: r.string(MaxNameBytes, "operator name"), Role: readRole(&r), KeyHash: r.fixed32("key hash")}
	o.CreatedAt = clock.Stamp(r.uvarint())
	o.CreatedBy = r.string(MaxCallerBytes, "caller")
	o.Generation = r.uvarint()
	return o, r.done()
}

// Operator returns the operator of that name. It is asked in each handshake of one, and for each of its requests.
func (v *View) Operator(name string) (Operator, bool) { return v.s.operator(name) }

// Operators returns all operators by name.
func (v *View) Operators() []Operator {
	return rows(v.s, TableOperator, func(r *record) (Operator, error) { return DecodeOperator(r.row) })
}

func (s *store) operator(name string) (Operator, bool) {
	r, ok := s.get(TableOperator, name)
	if !ok {
		return Operator{}, false
	}
	return must(DecodeOperator(r.row)), true
}
