package state

import (
	"fmt"
	"testing"
)

func bindOperator(name string, key byte) OperatorBind {
	return OperatorBind{Name: name, Role: "local", KeyHash: [32]byte{key}}
}

// TestOperators: a name has one key and a key one name; the same once more changes nothing; only a replacement binds a
// name anew; who was removed is gone, for a follower outside the core as well.
func TestOperators(t *testing.T) {
	m := testGenesis()
	do(t, m, OperatorRemove{Name: "eve"}, CodeNotFound)
	added := do(t, m, bindOperator("eve", 1), CodeOK)
	first, err := DecodeOperator(added.Body)
	if row, ok := m.View().Operator("eve"); err != nil || !ok || row != first || first.Generation != 1 || first.CreatedAt == 0 || first.Role != "local" {
		t.Fatalf("added %+v, %v; the row is %+v", first, err, row)
	}
	before := m.View()
	again := do(t, m, bindOperator("eve", 1), CodeOK)
	if got, err := DecodeOperator(again.Body); err != nil || got != first || m.View().Revision() != before.Revision() {
		t.Errorf("a retry: %+v, %v, revision %d after %d", got, err, m.View().Revision(), before.Revision())
	}
	do(t, m, bindOperator("eve", 2), CodeExists)
	do(t, m, OperatorBind{Name: "eve", Role: "operator", KeyHash: [32]byte{1}}, CodeExists)
	do(t, m, bindOperator("adam", 1), CodeExists)
	do(t, m, OperatorBind{Name: "adam", Role: "local", KeyHash: [32]byte{2}, Replace: true}, CodeNotFound)
	do(t, m, bindOperator("adam", 2), CodeOK)
	do(t, m, OperatorBind{Name: "eve", Role: "local", KeyHash: [32]byte{2}, Replace: true}, CodeExists)
	do(t, m, OperatorBind{Name: "eve", Role: "operator", KeyHash: [32]byte{3}, Replace: true}, CodeOK)
	if row, _ := m.View().Operator("eve"); row.Generation != 2 || row.KeyHash != [32]byte{3} || row.Role != "operator" {
		t.Errorf("replaced: %+v", row)
	}
	do(t, m, OperatorRemove{Name: "eve"}, CodeOK)
	f := NewFollower(ClassPublic)
	load(t, f, m.View())
	for _, v := range []*View{m.View(), f.View()} {
		if rows := v.Operators(); len(rows) != 1 || rows[0].Name != "adam" {
			t.Errorf("operators: %+v", rows)
		}
		if _, ok := v.Operator("eve"); ok {
			t.Error("eve was removed")
		}
	}
}

// TestOperatorsAreBounded reaches the limit; a replacement at it still works, and a removal makes room.
func TestOperatorsAreBounded(t *testing.T) {
	m := testGenesis()
	bind := func(i int) OperatorBind {
		return OperatorBind{Name: fmt.Sprintf("o%d", i), Role: "discovery", KeyHash: [32]byte{1, byte(i), byte(i >> 8)}}
	}
	for i := 0; i < MaxOperators; i += 512 {
		commands := make([]Command, 0, 512)
		for j := i; j < i+512; j++ {
			commands = append(commands, bind(j))
		}
		apply(t, m, stampAt(10+i), commands...)
	}
	if n := m.View().Rows(TableOperator); n != MaxOperators {
		t.Fatalf("%d operators", n)
	}
	do(t, m, bind(MaxOperators), CodeLimit)
	do(t, m, OperatorBind{Name: "o0", Role: "local", KeyHash: [32]byte{2}, Replace: true}, CodeOK)
	do(t, m, OperatorRemove{Name: "o1"}, CodeOK)
	do(t, m, bind(MaxOperators), CodeOK)
}

// TestRecoveredOperators: a restore does not bring back who was removed since the backup. The later copy of the public
// state says who counts; without one nobody does; and a recovery from the newest log, the control, keeps them.
func TestRecoveredOperators(t *testing.T) {
	m := beforeLoss(t)
	apply(t, m, stampAt(1500), bindOperator("eve", 1), bindOperator("adam", 2))
	old := m.View()
	apply(t, m, stampAt(2000), OperatorRemove{Name: "eve"}, bindOperator("lilith", 3))
	copied := publicCopy(t, m.View())
	for _, test := range []struct {
		name  string
		from  *View
		known *View
		log   bool
		want  string
	}{
		{"a backup and a later copy", old, copied, false, "[adam lilith]"},
		{"a backup alone", old, nil, false, "[]"},
		{"a backup and an older copy", m.View(), publicCopy(t, old), false, "[]"},
		{"a log", m.View(), nil, true, "[adam lilith]"},
		{"a log and an older copy", m.View(), publicCopy(t, old), true, "[adam lilith]"},
		{"a short log and a later copy", old, copied, true, "[adam lilith]"},
		{"the control: a log that ends before the removal", old, nil, true, "[adam eve]"},
	} {
		o := recoverOptions()
		o.Known, o.Backup = test.known, !test.log
		names := []string{}
		for _, row := range mustRecover(t, test.from, o).Operators() {
			names = append(names, row.Name)
		}
		if got := fmt.Sprint(names); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
