package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/itchyny/gojq"
)

// How long an expectation may think: --wait, but not so short that a busy machine ends a program that is all right, and
// not so long that nobody knows what it is waiting for.
const (
	expectLeast = time.Second
	expectMost  = 5 * time.Second
)

// blankProgram reports a jq program of nothing but space and comments. To jq that is the identity, which is always true.
func blankProgram(program string) bool {
	for line := range strings.Lines(program) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// compileExpect parses a jq program; nil stands for no expectation.
func compileExpect(program string) (*gojq.Code, error) {
	if program == "" {
		return nil, nil
	}
	query, err := gojq.Parse(program)
	if err != nil {
		return nil, usageError("it is a jq program for the JSON that -o json prints, like '.ready == true'",
			"--expect %q: %s", program, err)
	}
	code, err := gojq.Compile(query, gojq.WithEnvironLoader(os.Environ))
	if err != nil {
		return nil, usageError("it is a jq program for the JSON that -o json prints, like '.ready == true'",
			"--expect %q: %s", program, err)
	}
	return code, nil
}

// holds runs the expectation on the JSON of v. As with jq -e, the last result decides: false, null and no
// result at all are false. A program that fails or does not end is an error, not a false expectation. ctx is the command's
// and not that of --wait, which may be over when the last answer is judged.
func (a *app) holds(ctx context.Context, code *gojq.Code, v any) (bool, error) {
	if code == nil {
		return true, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	var input any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // an index may not fit into a float64
	if err := d.Decode(&input); err != nil {
		return false, err
	}
	limit := expectMost
	if a.wait > 0 {
		limit = min(max(a.wait, expectLeast), expectMost)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	held := false
	for results := code.RunWithContext(limited, input); ; {
		result, more := results.Next()
		if !more {
			return held, nil
		}
		if err, failed := result.(error); failed {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("no result within %s", limit)
			}
			return false, &failure{code: exitFailed, err: fmt.Errorf("--expect: %w", err),
				hint: "try the program with: parley ... -o json | jq PROGRAM"}
		}
		held = result != nil && result != false
	}
}

func expectFalse(program string) error {
	return &failure{code: exitExpectFalse, err: fmt.Errorf("not as expected: %s", program)}
}
