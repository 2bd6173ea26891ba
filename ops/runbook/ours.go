package runbook

import (
	"sync"

	"github.com/parley-mesh/parley/runbooks"
)

// Ours are the runbooks of this program. They are read once; a test shows that they can be.
var Ours = sync.OnceValues(func() (*Library, error) { return Load(runbooks.Files) })
