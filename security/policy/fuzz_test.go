package policy

import "testing"

// FuzzRole: whatever is said to be a role is one of the four or may do nothing, and nothing lets an action through that no table has.
func FuzzRole(f *testing.F) {
	for _, r := range Roles() {
		f.Add(string(r), string(KVWrite), string(Operator))
	}
	f.Add("Operator", "kv.read", "none")
	f.Add(" local", "", "\x00")
	f.Add("", "*", "operator ")
	f.Fuzz(func(t *testing.T, role, action, other string) {
		parsed, err := ParseRole(role)
		if (err == nil) != Role(role).Valid() || err == nil && parsed != Role(role) {
			t.Errorf("%q: %q, %v", role, parsed, err)
		}
		allowed := Allowed(Role(role), Action(action))
		if allowed && (!Role(role).Valid() || !Allowed(Operator, Action(action))) {
			t.Errorf("%q may %q", role, action)
		}
		least := Min(Role(role), Role(other))
		if Allowed(least, Action(action)) && (!allowed || !Allowed(Role(other), Action(action))) {
			t.Errorf("the weaker of %q and %q may %q, and one of them may not", role, other, action)
		}
	})
}
