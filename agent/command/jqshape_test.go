package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/itchyny/gojq"
)

// jqPaths complains about the first path of a jq program that does not exist in an example of its input. It walks all
// branches: running the program would only look at the path that this one input leads to, and find null where a name
// is misspelled. Variables stand for texts. What it does not know is an error, so that nothing is skipped silently.
func jqPaths(program string, example any, variables []string) error {
	query, err := gojq.Parse(program)
	if err != nil {
		return err
	}
	env := make(jqEnv)
	for _, name := range variables {
		env["$"+name] = []any{"text"}
	}
	_, err = env.query(query, example)
	return err
}

// jqEnv is what variables can be.
type jqEnv map[string][]any

func (env jqEnv) query(q *gojq.Query, in any) ([]any, error) {
	switch {
	case len(q.FuncDefs) > 0 || len(q.Imports) > 0:
		return nil, errors.New("a definition: keep the program simple")
	case q.Term != nil:
		return env.term(q.Term, in)
	}
	left, err := env.query(q.Left, in)
	if err != nil {
		return nil, err
	}
	if q.Op == gojq.OpPipe {
		return env.pipe(q, in, left)
	}
	right, err := env.query(q.Right, in)
	if err != nil {
		return nil, err
	}
	switch q.Op {
	case gojq.OpComma, gojq.OpAlt:
		return append(left, right...), nil
	case gojq.OpAdd, gojq.OpSub, gojq.OpMul, gojq.OpDiv, gojq.OpMod:
		return left, nil
	case gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe, gojq.OpAnd, gojq.OpOr:
		return []any{true}, nil
	}
	return nil, fmt.Errorf("the operator %s: keep the program simple", q.Op)
}

// pipe also binds variables: left as $x | right.
func (env jqEnv) pipe(q *gojq.Query, in any, left []any) ([]any, error) {
	if len(q.Patterns) == 0 {
		return env.each(q.Right, left)
	}
	inner := maps.Clone(env)
	for _, p := range q.Patterns {
		if p.Name == "" {
			return nil, errors.New("a pattern: keep the program simple")
		}
		inner[p.Name] = left
	}
	return inner.query(q.Right, in)
}

func (env jqEnv) each(q *gojq.Query, inputs []any) (all []any, err error) {
	for _, in := range inputs {
		out, err := env.query(q, in)
		if err != nil {
			return nil, err
		}
		all = append(all, out...)
	}
	return all, nil
}

func (env jqEnv) term(t *gojq.Term, in any) ([]any, error) {
	out, err := env.head(t, in)
	for _, suffix := range t.SuffixList {
		var next []any
		for _, v := range out {
			found := []any{v}
			switch {
			case suffix.Index != nil:
				found, err = env.index(suffix.Index, v)
			case suffix.Iter:
				found, err = iterate(v)
			}
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		out = next
	}
	return out, err
}

func (env jqEnv) head(t *gojq.Term, in any) ([]any, error) {
	switch t.Type {
	case gojq.TermTypeIdentity:
		return []any{in}, nil
	case gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeNumber:
		return []any{true}, nil
	case gojq.TermTypeString:
		for _, q := range t.Str.Queries {
			if _, err := env.query(q, in); err != nil {
				return nil, err
			}
		}
		return []any{"text"}, nil
	case gojq.TermTypeIndex:
		return env.index(t.Index, in)
	case gojq.TermTypeFunc:
		return env.call(t.Func, in)
	case gojq.TermTypeArray:
		if t.Array.Query == nil {
			return []any{[]any{}}, nil
		}
		out, err := env.query(t.Array.Query, in)
		return []any{out}, err
	case gojq.TermTypeUnary:
		return env.term(t.Unary.Term, in)
	case gojq.TermTypeQuery:
		return env.query(t.Query, in)
	}
	return nil, fmt.Errorf("%s: keep the program simple", t)
}

func (env jqEnv) index(x *gojq.Index, v any) ([]any, error) {
	switch v := v.(type) {
	case map[string]any:
		found, ok := v[x.Name]
		if x.Name == "" || !ok {
			return nil, fmt.Errorf("there is no .%s; there are %s", x.Name, strings.Join(slices.Sorted(maps.Keys(v)), ", "))
		}
		return []any{found}, nil
	case []any:
		if x.Name != "" || len(v) == 0 {
			return nil, fmt.Errorf("a list of %d has no .%s", len(v), x.Name)
		}
		if x.IsSlice {
			return []any{v}, nil
		}
		return v[:1], nil
	}
	return nil, fmt.Errorf("%v has no .%s", v, x.Name)
}

func iterate(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		if len(v) > 0 {
			return v, nil
		}
		return nil, errors.New("the example has an empty list: fill it, so that what is in it can be checked")
	case map[string]any:
		return slices.Collect(maps.Values(v)), nil
	}
	return nil, fmt.Errorf("%v is no list", v)
}

// call knows what functions do with paths: which look at the input as a whole, which at each element of it.
func (env jqEnv) call(f *gojq.Func, in any) ([]any, error) {
	if strings.HasPrefix(f.Name, "$") {
		value, ok := env[f.Name]
		if !ok {
			return nil, fmt.Errorf("there is no variable %s", f.Name)
		}
		return value, nil
	}
	switch name := fmt.Sprintf("%s/%d", f.Name, len(f.Args)); name {
	case "empty/0":
		return nil, nil
	case "length/0", "not/0", "tostring/0", "tonumber/0", "keys/0":
		return []any{true}, nil
	case "first/0", "last/0", "min/0", "max/0", "add/0":
		return iterate(in)
	case "sort/0", "unique/0", "reverse/0":
		return []any{in}, nil
	case "all/0", "any/0":
		_, err := iterate(in)
		return []any{true}, err
	case "all/1", "any/1", "map/1", "sort_by/1", "group_by/1", "unique_by/1", "min_by/1", "max_by/1":
		return env.overElements(f, in)
	case "all/2", "any/2":
		elements, err := env.query(f.Args[0], in)
		if err != nil {
			return nil, err
		}
		_, err = env.each(f.Args[1], elements)
		return []any{true}, err
	case "select/1":
		_, err := env.query(f.Args[0], in)
		return []any{in}, err
	case "first/1", "last/1":
		return env.query(f.Args[0], in)
	case "join/1", "startswith/1", "endswith/1", "test/1", "contains/1", "index/1":
		_, err := env.query(f.Args[0], in)
		return []any{"text"}, err
	default:
		return nil, fmt.Errorf("the function %s: teach it to jqPaths", name)
	}
}

func (env jqEnv) overElements(f *gojq.Func, in any) ([]any, error) {
	elements, err := iterate(in)
	if err != nil {
		return nil, err
	}
	out, err := env.each(f.Args[0], elements)
	switch f.Name {
	case "all", "any":
		return []any{true}, err
	case "map":
		return []any{out}, err
	case "min_by", "max_by":
		return elements, err
	case "group_by":
		return []any{[]any{elements}}, err
	}
	return []any{in}, err
}

// The checker finds what it is for, in every place of a program, and does not complain about what is right.
func TestJQPaths(t *testing.T) {
	example := map[string]any{
		"a": map[string]any{"b": true}, "names": []any{"x"}, "none": []any{},
		"rows": []any{map[string]any{"name": "x", "up": true, "in": []any{map[string]any{"deep": 1.0}}}},
	}
	for program, want := range map[string]string{
		".a.b": "", ".": "", "(.names | length) > 0 and .a.b": "", "all(.rows[]; .up)": "", "any(.rows[]; .name == $node and .up)": "",
		"first(.rows[] | select(.up | not) | .name)": "", ".rows | map(.name) | join(\", \")": "", "[.rows[] | .in[].deep] | max": "",
		".names[0] // .rows[0].name": "", ".rows as $r | $r[0].name == .names[0]": "", `.rows | sort_by(.name) | first | .up`: "", `.rows | group_by(.name) | max_by(length) | .[0].up`: "",
		`.rows | group_by(.nam)`: "there is no .nam", `.rows | group_by(.name) | .[0][0].down`: "there is no .down",
		".b": "there is no .b", ".a.c": "there is no .c", ".a.b.c": "has no .c", "all(.rows[]; .down)": "there is no .down",
		".a.b or .c": "there is no .c", "false and .c": "there is no .c", ".a // .c": "there is no .c", "first(.rows[] | select(.down))": "there is no .down",
		"[.rows[] | .in[].deeper]": "there is no .deeper", ".rows[0].nam": "there is no .nam", "any(.rows[]; .name == .nme)": "there is no .nme",
		"all(.none[]; .x)": "the example has an empty list", ".rows.name": "a list of 1 has no .name", "$host": "there is no variable $host",
		"..": "keep the program simple", "def f: .; f": "a definition", "limit(1; .a)": "the function limit/2", ".rows as $r | $r[0].nam": "there is no .nam",
	} {
		err := jqPaths(program, example, []string{"node"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", program, err, want)
		}
	}
}
