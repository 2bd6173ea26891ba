package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

// source is config.go itself: the comments of its fields are the comments of the example file, so that
// there is one text for both.
//
//go:embed config.go
var source string

// exampleHeader begins the example file.
const exampleHeader = `# Parley's agent configuration. Every key is here with its default; a line that is commented out is an
# example for a key without one. Flags of "parley agent" win over the file. After a change, run
# "parley config check FILE".
`

// Example returns the example file: every key, its comment and its default. Loading it gives Default.
func Example() string {
	c := Default()
	comments := fieldComments()
	var b strings.Builder
	b.WriteString(exampleHeader)
	writeSection(&b, "", reflect.ValueOf(c), comments)
	return b.String()
}

func writeSection(b *strings.Builder, prefix string, section reflect.Value, comments map[string]string) {
	for i := range section.NumField() {
		sf := section.Type().Field(i)
		key := sf.Tag.Get("toml")
		if key == "-" {
			continue
		}
		b.WriteString("\n")
		for line := range strings.Lines(comments[section.Type().Name()+"."+sf.Name]) {
			b.WriteString("# " + strings.TrimSuffix(line, "\n") + "\n")
		}
		if sf.Type.Kind() == reflect.Struct {
			fmt.Fprintf(b, "[%s]\n", key)
			writeSection(b, prefix+key+".", section.Field(i), comments)
			continue
		}
		f := field{key: prefix + key, value: section.Field(i), tag: sf.Tag}
		fmt.Fprintf(b, "%s\n", f.exampleLine(key))
	}
}

// exampleLine is "key = value", commented out where the default is empty.
func (f field) exampleLine(key string) string {
	example, ok := f.tag.Lookup("example")
	if !ok {
		return key + " = " + f.text()
	}
	shown := field{key: f.key, value: reflect.New(f.value.Type()).Elem(), tag: f.tag}
	if err := shown.parse(example); err != nil {
		panic("config: example of " + f.key + ": " + err.Error())
	}
	return "# " + key + " = " + shown.text()
}

// fieldComments maps "Type.Field" to the field's comment in source.
func fieldComments() map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		panic("config: " + err.Error()) // it was compiled from the same text
	}
	comments := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				comments[spec.Name.Name+"."+f.Names[0].Name] = f.Doc.Text()
			}
		}
		return false
	})
	return comments
}
