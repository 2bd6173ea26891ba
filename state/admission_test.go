package state

import (
	"fmt"
	"strings"
	"testing"
)

func testAdmission(name string) Admission {
	return Admission{Name: name, Kind: AdmissionX509, Authorities: [][]byte{[]byte("ca")}, Names: "web-*", Suffix: ".example.org", Role: "local"}
}

// TestAdmissions: one is made, written anew and ended; the same once more changes nothing, and there is an end to their number.
func TestAdmissions(t *testing.T) {
	m := testGenesis()
	do(t, m, AdmissionDelete{Name: "own"}, CodeNotFound)
	do(t, m, AdmissionSet{Admission: testAdmission("own")}, CodeOK)
	revision := m.View().Revision()
	do(t, m, AdmissionSet{Admission: testAdmission("own")}, CodeOK)
	if m.View().Revision() != revision {
		t.Error("the same once more is a change")
	}
	anew := testAdmission("own")
	anew.Kind, anew.Authorities = AdmissionSSH, [][]byte{[]byte("one"), []byte("two")}
	do(t, m, AdmissionSet{Admission: anew}, CodeExists)
	do(t, m, AdmissionSet{Admission: anew, Replace: true}, CodeOK)
	if got, ok := m.View().Admission("own"); !ok || got.Kind != AdmissionSSH || len(got.Authorities) != 2 || got.CreatedAt == 0 {
		t.Errorf("%+v, %t", got, ok)
	}
	for i := range MaxAdmissions - 1 {
		do(t, m, AdmissionSet{Admission: testAdmission(fmt.Sprint("a", i))}, CodeOK)
	}
	do(t, m, AdmissionSet{Admission: testAdmission("more")}, CodeLimit)
	do(t, m, AdmissionSet{Admission: testAdmission("own"), Replace: true}, CodeOK)
	do(t, m, AdmissionDelete{Name: "own"}, CodeOK)
	if got := m.View().Admissions(); len(got) != MaxAdmissions-1 {
		t.Errorf("%d admissions", len(got))
	}
}

func TestAdmissionChecks(t *testing.T) {
	for name, spoil := range map[string]func(*Admission){
		"kind":                 func(a *Admission) { a.Kind = "gpg" },
		"no authority":         func(a *Admission) { a.Authorities = nil },
		"many authorities":     func(a *Admission) { a.Authorities = make([][]byte, MaxAdmissionKeys+1) },
		"an empty authority":   func(a *Admission) { a.Authorities = [][]byte{nil} },
		"a large authority":    func(a *Admission) { a.Authorities = [][]byte{make([]byte, MaxAdmissionKeyBytes+1)} },
		"no names":             func(a *Admission) { a.Names = "" },
		"long names":           func(a *Admission) { a.Names = strings.Repeat("a", MaxAdmissionText+1) },
		"long suffix":          func(a *Admission) { a.Suffix = strings.Repeat("a", MaxAdmissionText+1) },
		"role":                 func(a *Admission) { a.Role = "god" },
		"name":                 func(a *Admission) { a.Name = "A b" },
		"created before it is": func(a *Admission) { a.CreatedAt = 3 },
	} {
		a := testAdmission("own")
		spoil(&a)
		if err := (AdmissionSet{Admission: a}).check(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := (AdmissionSet{Admission: testAdmission("own")}).check(); err != nil {
		t.Errorf("control: %v", err)
	}
}

// TestAdmittedNames: the name of a host is that of its certificate, without the suffix, and must be one that the admission is for.
func TestAdmittedNames(t *testing.T) {
	for _, c := range []struct{ names, suffix, certified, node string }{
		{"web-*", ".example.org", "web-1.example.org", "web-1"},
		{"web-*", ".example.org", "web-1.example.com", ""},
		{"web-*", ".example.org", "db-1.example.org", ""},
		{"web-*", "", "web-1", "web-1"},
		{"web-1", "", "web-1", "web-1"},
		{"web-1", "", "web-10", ""},
		{"*", "", "web-1", "web-1"},
		{"*", "", "", ""},
		{"*", "", "web 1", ""},
		{"*", ".x", ".x", ""},
		{"a*b*c", "", "a1b2c", "a1b2c"},
		{"a*b*c", "", "abc", "abc"},
		{"a*b*c", "", "ac", ""},
		{"ab*ba", "", "aba", ""},
		{"*-*-1", "", "x-y-1", "x-y-1"},
	} {
		got, err := Admission{Names: c.names, Suffix: c.suffix}.NodeOf(c.certified)
		if got != c.node || (err == nil) != (c.node != "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
