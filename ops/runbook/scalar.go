package runbook

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFailureMode is the number of the last failure mode.
const maxFailureMode = 27

// FailureMode is the number of a failure mode, 1 to 27, or slo:NAME.
type FailureMode string

// UnmarshalYAML takes both spellings.
func (m *FailureMode) UnmarshalYAML(node *yaml.Node) error {
	*m = FailureMode(node.Value)
	_, ok := m.number()
	if name, slo := strings.CutPrefix(node.Value, "slo:"); slo {
		ok = idPattern.MatchString(name)
	}
	if node.Kind != yaml.ScalarNode || !ok {
		return typeError(node, "failure_mode %q is neither 1 to %d nor slo:NAME", node.Value, maxFailureMode)
	}
	return nil
}

func (m FailureMode) number() (int, bool) {
	n, err := strconv.Atoi(string(m))
	return n, err == nil && n >= 1 && n <= maxFailureMode
}

// MarshalJSON writes a number as one.
func (m FailureMode) MarshalJSON() ([]byte, error) {
	if n, ok := m.number(); ok {
		return json.Marshal(n)
	}
	return json.Marshal(string(m))
}

// Duration is a time.Duration that is written like 1m30s.
type Duration time.Duration

// String is the shortest spelling: 5m, not 5m0s.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalYAML reads what time.ParseDuration reads.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	parsed, err := time.ParseDuration(node.Value)
	if err != nil || parsed <= 0 {
		return typeError(node, "%q is not a duration such as 30s or 5m", node.Value)
	}
	*d = Duration(parsed)
	return nil
}

// typeError is what yaml makes of its own complaints, so that one decoder's errors read alike.
func typeError(node *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: "+format, append([]any{node.Line}, args...)...)}}
}
