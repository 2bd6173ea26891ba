package runbook

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/itchyny/gojq"
)

var dollar = regexp.MustCompile(`\$[a-z][a-z0-9_]*`)

// mentioned are the names of variables in a jq program, those that it binds itself among them.
func mentioned(program string) []string {
	found := dollar.FindAllString(program, -1)
	for i := range found {
		found[i] = found[i][1:]
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// bind puts the variables in front of a jq program, each as a string literal of JSON, which is one of jq as well. So
// the same text works in --expect, and no value can become a part of the program.
func bind(program string, values map[string]string) string {
	var b strings.Builder
	for _, name := range mentioned(program) {
		if value, ok := values[name]; ok {
			literal, _ := json.Marshal(value) // a string always encodes
			fmt.Fprintf(&b, "%s as $%s | ", literal, name)
		}
	}
	return b.String() + program
}

func compile(program string, values map[string]string) (*gojq.Code, error) {
	query, err := gojq.Parse(bind(program, values))
	if err != nil {
		return nil, err
	}
	return gojq.Compile(query)
}

// asValue is what a captured result is as the value of a variable. Null is none.
func asValue(result any) (value string, ok bool, err error) {
	switch v := result.(type) {
	case nil:
		return "", false, nil
	case string:
		value = v
	case map[string]any, []any:
		return "", false, fmt.Errorf("a captured value is a text or a number, not an object or a list")
	default:
		value = fmt.Sprint(v)
	}
	if value == "" {
		return "", false, nil
	}
	err = CheckValue(value)
	return value, err == nil, err
}
