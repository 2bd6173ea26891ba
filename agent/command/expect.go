package command

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/itchyny/gojq"
)

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
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, usageError("it is a jq program for the JSON that -o json prints, like '.ready == true'",
			"--expect %q: %s", program, err)
	}
	return code, nil
}

// holds runs the expectation on the JSON of v. As with jq -e, the last result decides: false, null and no
// result at all are false. A program that fails is an error, not a false expectation.
func holds(code *gojq.Code, v any) (bool, error) {
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
	held := false
	for results := code.Run(input); ; {
		result, more := results.Next()
		if !more {
			return held, nil
		}
		if err, failed := result.(error); failed {
			return false, &failure{code: exitFailed, err: fmt.Errorf("--expect: %w", err),
				hint: "try the program with: parley ... -o json | jq PROGRAM"}
		}
		held = result != nil && result != false
	}
}

func expectFalse(program string) error {
	return &failure{code: exitExpectFalse, err: fmt.Errorf("not as expected: %s", program)}
}
