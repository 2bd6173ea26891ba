package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// variants are the program with mistakes in it that a build tag plants; each is built once, by the first test that wants it.
var variants = map[string]func() (string, error){
	"memoryfault": variant("memoryfault"),
	"mutants":     variant("mutants"),
	"poison":      variant("poison"),
}

func variant(tag string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		path := filepath.Join(filepath.Dir(program), "parley-"+tag)
		out, err := buildProgram("-tags", tag, "-o", path).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("build the program with tag %s: %w\n%s", tag, err, out)
		}
		return path, err
	})
}

// mistaken returns the program with the mistakes of a build tag.
func mistaken(t *testing.T, tag string) string {
	t.Helper()
	path, err := variants[tag]()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildProgram builds the program as a release is built, but for the paths in it: so most of it is in the cache of builds already.
func buildProgram(args ...string) *exec.Cmd {
	build := exec.Command("go", append(append([]string{"build"}, args...), "../../cmd/agent")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	return build
}
