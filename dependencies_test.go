package parley

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestDependenciesHaveReasons: each direct dependency of go.mod has a line in docs/dependencies.md,
// and each line there is of one.
func TestDependenciesHaveReasons(t *testing.T) {
	required := find(t, "go.mod", `(?m)^\t([^ ]+) v[^ ]+$`) // indirect ones have a comment behind
	explained := find(t, "docs/dependencies.md", `(?m)^\| ([a-z0-9.]+\.[a-z]+/[^ ]+) \|.*\| [^|]{10,} \|$`)
	if len(required) == 0 || len(explained) == 0 {
		t.Fatalf("got %d required and %d explained: the files are not read right", len(required), len(explained))
	}
	for _, name := range required {
		if !slices.Contains(explained, name) {
			t.Errorf("%s is required and not in docs/dependencies.md: say why it is worth its weight", name)
		}
	}
	for _, name := range explained {
		if !slices.Contains(required, name) {
			t.Errorf("%s is in docs/dependencies.md and go.mod does not require it directly", name)
		}
	}
}

// find returns the first group of each match of the pattern in a file.
func find(t *testing.T, name, pattern string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		found = append(found, string(match[1]))
	}
	return found
}
