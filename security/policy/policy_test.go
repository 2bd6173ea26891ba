package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed is written out by hand, apart from the table in action.go, so that loosening a right takes
// two edits. Each line adds to the one above it.
var allowed = []struct {
	role    Role
	actions string
}{
	{None, "livez ready"},
	{Discovery, "metrics console runbooks members core.read status catalog.read health.read slo.read alert.read probe " +
		"digest.read apply.read net.read bundle.read operator.renew identity.read"},
	{Local, "kv.read kv.write txn session.read session.use lock.use catalog.write event.read event.fire"},
	{Operator, "token.create token.list token.revoke admission.read admission.write core.write node.role node.trust operator.read operator.write entry.read entry.write ca.rotate evict deny.read deny.write leave apply.quarantine check storage.scrub storage.tail digest.diff digest.accept kv.purge snapshot.save debug.read debug.forget"},
}

// Every role may do exactly what the written list gives it and what the weaker roles have.
func TestRoleByAction(t *testing.T) {
	have := map[Action]bool{}
	for _, line := range allowed {
		for _, a := range strings.Fields(line.actions) {
			have[Action(a)] = true
		}
		for _, a := range Actions() {
			if got := Allowed(line.role, a); got != have[a] {
				t.Errorf("Allowed(%s, %s) = %v, want %v", line.role, a, got, have[a])
			}
		}
	}
	if got, want := len(Actions()), len(have); got != want {
		t.Errorf("%d actions in the table, %d in this test", got, want)
	}
}

// A constant that was left out of the table would be refused to everybody; a test says so first.
func TestEveryActionConstantIsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "action.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants []Action
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Action" {
			return true
		}
		for _, v := range spec.Values {
			s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			constants = append(constants, Action(s))
		}
		return true
	})
	slices.Sort(constants)
	if got := Actions(); !slices.Equal(got, constants) {
		t.Errorf("table has %v, constants are %v", got, constants)
	}
}

// What is not in the table is denied, to the operator as well, and so is a role that is none of ours.
func TestUnknownIsDenied(t *testing.T) {
	for _, r := range Roles() {
		for _, a := range []Action{"", "kv", "KV.READ", "kv.read ", "token"} {
			if Allowed(r, a) {
				t.Errorf("Allowed(%s, %q) = true", r, a)
			}
		}
	}
	for _, r := range []Role{"", "root", "Operator", "operator "} {
		for _, a := range Actions() {
			if Allowed(r, a) {
				t.Errorf("Allowed(%q, %s) = true", r, a)
			}
		}
	}
}

// Min never gives more than either side has, whatever the other side claims.
func TestMin(t *testing.T) {
	all := append(Roles(), "", "root")
	for _, a := range all {
		for _, b := range all {
			m := Min(a, b)
			if !m.Valid() {
				t.Errorf("Min(%q, %q) = %q, not a role", a, b, m)
			}
			if m != Min(b, a) {
				t.Errorf("Min(%q, %q) is not symmetric", a, b)
			}
			if a.Valid() && b.Valid() && m != a && m != b {
				t.Errorf("Min(%q, %q) = %q, neither of them", a, b, m)
			}
			for _, act := range Actions() {
				if need := needs[act]; need != None && Allowed(m, act) && (!Allowed(a, act) || !Allowed(b, act)) {
					t.Errorf("Min(%q, %q) allows %s", a, b, act)
				}
			}
		}
	}
	if got := Min(Operator, Discovery); got != Discovery {
		t.Errorf("Min(operator, discovery) = %s", got)
	}
}

func TestParseRole(t *testing.T) {
	for _, want := range Roles() {
		if got, err := ParseRole(string(want)); err != nil || got != want {
			t.Errorf("ParseRole(%q) = %q, %v", want, got, err)
		}
	}
	for in, hint := range map[string]string{
		"":         "none, discovery, local or operator",
		"admin":    "none, discovery, local or operator",
		"Operator": `did you mean "operator"?`,
		" local":   `did you mean "local"?`,
	} {
		got, err := ParseRole(in)
		if err == nil || got != "" || !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseRole(%q) = %q, %v; want an error with %q", in, got, err, hint)
		}
	}
}

// A caller cannot widen a right by writing into what the package hands out.
func TestTablesAreCopies(t *testing.T) {
	Roles()[0] = Operator
	Actions()[0] = "x"
	if Roles()[0] != None || Actions()[0] == "x" {
		t.Error("a returned slice shares memory with the table")
	}
}
