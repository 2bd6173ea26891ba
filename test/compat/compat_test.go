package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The list is read strictly: a test is there once, and an excluded one has its reason.
func TestList(t *testing.T) {
	l, err := parseList("# comment\n[kv]\nTestA\n\n[excluded]\nTestB | later: what it needs is not there\n")
	if err != nil || len(l) != 2 || l[0] != (test{group: "kv", name: "TestA"}) || l[1].excluded != "later: what it needs is not there" {
		t.Errorf("got %+v, %v", l, err)
	}
	if got := l.required(regexp.MustCompile("")); len(got) != 1 || got[0] != "TestA" {
		t.Errorf("required: %v", got)
	}
	for text, want := range map[string]string{
		"[a]\nTestA\nTestA": "twice", "[a]\nTestA |": "without a reason", "[a]\nTestA | no": "without a reason", "TestA": "no group",
	} {
		if _, err := parseList(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	text, err := os.ReadFile(listing)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = parseList(string(text)); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, each := range l {
		if each.excluded == "" {
			count[each.group]++
		}
	}
	for group, want := range map[string]int{"kv": 9, "lock": 9, "semaphore": 9, "session": 11, "status": 6, "txn": 2} {
		if count[group] != want {
			t.Errorf("%d tests of %s have to pass, want %d", count[group], group, want)
		}
	}
}

// A test that failed, was skipped or never ended does not count as passed, and its words are shown.
func TestReport(t *testing.T) {
	output := []byte("=== RUN   TestA\n=== PAUSE TestA\n=== RUN   TestB\nb says\n=== CONT  TestA\na says\n    --- PASS: TestB/sub (0.00s)\n" +
		"--- PASS: TestA (2.00s)\n--- FAIL: TestB (0.10s)\n--- SKIP: TestC (0.00s)\npanic: boom\n")
	r := &results{names: []string{"TestA", "TestB", "TestC", "TestD"}, how: verdicts(output), output: output}
	var w strings.Builder
	err := r.report(&w)
	if err == nil || !strings.Contains(err.Error(), "3 tests did not pass: TestB, TestC, TestD") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"PASS     TestA", "FAIL     TestB", "SKIP     TestC", "NOT RUN  TestD", "1 of 4", "b says"} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("got\n%swant %q in it", w.String(), want)
		}
	}
	if strings.Contains(w.String(), "a says") {
		t.Error("it shows what a passing test said")
	}
	r = &results{names: []string{"TestA"}, how: verdicts(output)}
	if err := r.report(&w); err != nil {
		t.Errorf("all passed: %v", err)
	}
}

// The table says what did not pass, and replaces only what stands between its lines.
func TestTable(t *testing.T) {
	l, err := parseList("[kv]\nTestAPI_A\nTestAPI_B\n[excluded]\nTestC_d | later: what it needs is not there\n")
	if err != nil {
		t.Fatal(err)
	}
	got := l.table(&results{how: map[string]string{"TestAPI_A": "PASS", "TestAPI_B": "FAIL"}})
	for _, want := range []string{"2 of the 3 tests have to pass, and 1 do.", "| kv | 1 of 2 | A, **B fails** |", `| later: what it needs is not there (1) | C\_d |`} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%swant %s", got, want)
		}
	}
	text := "before\n" + tableBegin + "old\n" + tableEnd + "after\n"
	if now, err := replaceTable(text, "new\n"); err != nil || now != "before\n"+tableBegin+"new\n"+tableEnd+"after\n" {
		t.Errorf("got %q, %v", now, err)
	}
	if _, err := replaceTable("no lines", "new"); err == nil {
		t.Error("a file without the lines was taken")
	}
}
