package runbook

import (
	"testing"

	"github.com/parley-mesh/parley/runbooks"
)

// The runbooks of this repository can be read, and nothing is wrong with them that a machine can see.
func TestOurRunbooks(t *testing.T) {
	library, err := Load(runbooks.Files)
	if err != nil {
		t.Fatal(err)
	}
	if len(library.All()) == 0 {
		t.Error("there are none")
	}
}
