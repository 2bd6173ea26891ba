package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// rawOutput is the annotation of commands that also print bytes alone.
const rawOutput = "raw-output"

// answer is what a command has to say: the value that becomes JSON and YAML, and the same for people.
type answer struct {
	value any
	table func(w io.Writer) // columns are separated by tabs
	raw   []byte            // for -o raw, where the command offers it
}

func (a *app) checkOutput(cmd *cobra.Command) error {
	switch a.output {
	case "table", "json", "yaml":
		return nil
	case "raw":
		if cmd.Annotations[rawOutput] != "" {
			return nil
		}
		return usageError("only `parley kv get`, `parley token create` and `parley identity fetch jwt` print raw bytes; use table, json or yaml",
			"%s has no -o raw", cmd.CommandPath())
	}
	return usageError("use -o table, -o json or -o yaml", "-o %s is not a format", a.output)
}

// show prints an answer in the format that was asked for.
func (a *app) show(ans answer) error {
	switch a.output {
	case "json":
		return writeJSON(a.out, ans.value)
	case "yaml":
		return writeYAML(a.out, ans.value)
	case "raw":
		_, err := a.out.Write(ans.raw)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	ans.table(w)
	return w.Flush()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeYAML goes through JSON, so that names and order are the same in both.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	plainStyle(&doc)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&doc); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// plainStyle undoes JSON's braces and quotes; the encoder quotes again what would change its meaning.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plainStyle(child)
	}
}

// fields is the table of a single thing: a name and a value a line.
func fields(w io.Writer, pairs ...any) {
	for i := 0; i+1 < len(pairs); i += 2 {
		_, _ = fmt.Fprintf(w, "%s\t%v\n", pairs[i], pairs[i+1])
	}
}

// row is one line of a table with columns.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// instant is how tables show a time; JSON has it in full.
func instant(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// isTerminal reports whether a person watches w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
