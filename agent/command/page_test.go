package command

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/template"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parley-mesh/parley/agent"
)

var update = flag.Bool("update", false, "write docs/commands.md")

const commandsPage = "../../docs/commands.md"

// endpointNotes is what the native endpoints take; those without a line take nothing.
var endpointNotes = map[string]string{
	"GET /readyz":                      "`verbose`",
	"GET /parley/v1/kv":                asBelow,
	"GET /parley/v1/history/*":         "`stale`",
	"POST /parley/v1/undo/*":           "`revision=R`, that of the key's last write",
	"GET /parley/v1/kv/*":              "`revision=R`, alone or with `stale`; `prefix`, `keys`, `stale`, `index=N&wait=30s` (at most 10 m), `limit`; `watch` for an event stream, with `prefix` and `stale` only",
	"PUT /parley/v1/kv/*":              "raw body; `cas=REV` or `session=ID` with `release`; `flags=N`",
	"DELETE /parley/v1/kv/*":           "`cas=REV` or `prefix`",
	"POST /parley/v1/txn":              "`{\"compare\":[{\"key\",\"target\",\"relation\",\"number\",\"value\"}],\"then\":[{\"op\",\"key\",\"value\",\"flags\",\"cas\",\"session\"}],\"else\":[...]}`; `target` is revision, create_revision, version or value; `relation` is =, !=, < or >; `op` is put, delete, delete_prefix, get, get_existing, get_tree, lock, unlock, check_revision, check_session or check_absent",
	"POST /parley/v1/token":            "`{\"ttl\",\"uses\",\"node\",\"role\",\"core\",\"replace\"}`, all optional",
	"GET /parley/v1/admissions":        "`stale`",
	"POST /parley/v1/admission":        "`{\"name\",\"kind\",\"authorities\",\"names\",\"suffix\",\"role\",\"core\",\"replace\"}`; `authorities` is the text of a file: certificates (PEM) or public keys of SSH",
	"GET /parley/v1/denies":            "`stale`",
	"POST /parley/v1/deny":             "`{\"what\",\"for_s\",\"reason\",\"dry_run\"}`; `what` is a SPIFFE ID, its path, or a serial number in hex",
	"DELETE /parley/v1/deny/*":         "nothing; `*` is `id/PATH` or `serial/HEX`",
	"POST /parley/v1/operator":         "`{\"role\",\"csr\",\"replace\"}`; `csr` is a certificate request (PKCS #10, DER, base64) that names the operator",
	"GET /parley/v1/operators":         "`stale`",
	"GET /parley/v1/operator/*":        "`stale`",
	"POST /parley/v1/identity/renew":   "`{\"csr\"}`, for a key that is bound to the operator that it names",
	"POST /parley/v1/identity/entry":   "`{\"name\",\"spiffe_id\",\"selectors\",\"nodes\",\"service\",\"federates_with\",\"ttl_s\",\"jwt_ttl_s\",\"hint\",\"owner\",\"replace\"}`; `name` and `selectors` are needed; `spiffe_id` may be a path",
	"GET /parley/v1/identity/entries":  "`stale`",
	"GET /parley/v1/identity/entry/*":  "`stale`",
	"POST /parley/v1/core/allow":       "`{\"node\",\"allow\"}`",
	"GET /parley/v1/digest/diff":       "`node=NAME`, `reference=NAME`",
	"POST /parley/v1/digest/accept":    "`{\"node\"}`",
	"POST /parley/v1/core/size":        "`{\"size\"}`",
	"POST /parley/v1/agent/role":       "`{\"node\",\"role\"}`",
	"POST /parley/v1/agent/trust":      "`{\"node\"}`",
	"POST /parley/v1/session":          "`{\"name\",\"node\",\"ttl\",\"behavior\",\"lock_delay\"}`, all optional; `behavior` is release or delete",
	"GET /parley/v1/sessions":          "`node=NAME`, `stale`, `index=N&wait=30s`",
	"GET /parley/v1/session/*":         "`stale`, `index=N&wait=30s`",
	"PUT /parley/v1/session/*":         "nothing: it renews the session",
	"GET /parley/v1/events":            "`since=10m` or the `hlc` of an event, `kind=KIND`, `limit=N` of the newest, `index=N&wait=30s`",
	"POST /parley/v1/events":           "`{\"message\"}`",
	"GET /parley/v1/snapshot":          "`stale`; the answer is a backup file (storage/FORMAT.md), one at a time, of any size",
	"GET /parley/v1/storage/scrub":     "`mib_per_second=N`, 32 unless given; `node=NAME` for another agent's files",
	"POST /parley/v1/apply/quarantine": "`index=N`, `place=K`: the command in the entry, from 0",
}

// docs/commands.md is what the program says about itself.
func TestCommandsPage(t *testing.T) {
	want := renderPage(t)
	if *update {
		if err := os.WriteFile(commandsPage, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/commands.md is not what the commands say; run: go test ./agent/command -run TestCommandsPage -update")
	}
}

// Every command that does something says what its JSON is, and nothing is said about one that is not there.
func TestEveryCommandHasItsJSON(t *testing.T) {
	known := map[string]bool{}
	for _, cmd := range documented(Tree()) {
		path := shortPath(cmd)
		known[path] = true
		if jsonShapes[path] == "" {
			t.Errorf("%q has no line in jsonShapes (document.go)", path)
		}
	}
	for path := range jsonShapes {
		if !known[path] {
			t.Errorf("jsonShapes has a line for %q, which is no command", path)
		}
	}
	endpoints := map[string]bool{}
	for _, e := range agent.Endpoints() {
		endpoints[e.Method+" "+e.Path] = true
		if e.Role == "nobody" {
			t.Errorf("%s %s: nobody may call it", e.Method, e.Path)
		}
		for _, parameter := range e.Takes {
			if !tells(endpointNotes[e.Method+" "+e.Path], parameter) {
				t.Errorf("%s %s takes %s, which endpointNotes does not say", e.Method, e.Path, parameter)
			}
		}
	}
	for endpoint := range endpointNotes {
		if !endpoints[endpoint] {
			t.Errorf("endpointNotes has a line for %q, which is no endpoint", endpoint)
		}
	}
}

// tells reports whether a note has the parameter, alone or with a value.
func tells(note, parameter string) bool {
	return note == asBelow || parameter == notOffered ||
		strings.Contains(note, "`"+parameter+"`") || strings.Contains(note, "`"+parameter+"=") || strings.Contains(note, "&"+parameter+"=")
}

const (
	asBelow    = "as below, for all keys"
	notOffered = "revision" // has an answer, and no use yet
)

// --help shows the JSON beside the flags.
func TestHelpShowsTheJSON(t *testing.T) {
	cmd, _, err := Tree().Find([]string{"core", "size"})
	if err != nil {
		t.Fatal(err)
	}
	if usage := cmd.UsageString(); !strings.Contains(usage, "JSON (-o json):\n  {\"size\"}") {
		t.Errorf("got %s", usage)
	}
}

// documented lists the commands that do something, in the order of the tree.
func documented(cmd *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.Annotations[groupMark] == "" {
			list = append(list, sub)
		}
		if sub.Name() != "completion" { // its commands are shells
			list = append(list, documented(sub)...)
		}
	}
	return list
}

func shortPath(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), "parley ")
}

func renderPage(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/commands.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	root := Tree()
	native, dialect := endpointRows()
	var out bytes.Buffer
	err = template.Must(template.New("page").Parse(string(text))).Execute(&out, map[string]string{
		"Global":    flagRows(root.PersistentFlags()),
		"Commands":  commandRows(root),
		"Flags":     flagSections(root),
		"Errors":    errorRows(),
		"Endpoints": native, "Dialect": dialect,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func commandRows(root *cobra.Command) string {
	var b strings.Builder
	for _, cmd := range documented(root) {
		usage := strings.TrimSpace(strings.TrimPrefix(strings.TrimSuffix(cmd.UseLine(), "[flags]"), "parley "))
		shape := jsonShapes[shortPath(cmd)]
		if isJSON(shape) {
			shape = "`" + shape + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", cell(usage), cell(cmd.Short), cell(shape))
	}
	return b.String()
}

// cell keeps a text from ending a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func flagRows(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, defaultOf(f), cell(f.Usage))
	})
	return b.String()
}

// defaultOf leaves out what says no more than that there is none.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return ""
	}
	return "`" + f.DefValue + "`"
}

func flagSections(root *cobra.Command) string {
	var b strings.Builder
	for _, cmd := range documented(root) {
		flags, asAgent := cmd.LocalNonPersistentFlags(), false
		if cmd.Flags().Lookup(agentFlags[0].flag) != nil && cmd.Flags().Lookup("config") != nil && shortPath(cmd) != "agent" {
			flags, asAgent = ownFlags(flags), true
		}
		rows := flagRows(flags)
		if rows == "" {
			continue
		}
		fmt.Fprintf(&b, "### `%s`\n\n| flag | default | meaning |\n|---|---|---|\n%s\n", shortPath(cmd), rows)
		if asAgent {
			b.WriteString("And the flags of `agent`, but for `--token`.\n\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ownFlags are those that a command does not share with `parley agent`.
func ownFlags(flags *pflag.FlagSet) *pflag.FlagSet {
	agentCommand, _, _ := Tree().Find([]string{"agent"}) // the tree has it, or TestEveryCommandHasItsJSON fails
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		if agentCommand.Flags().Lookup(f.Name) == nil {
			own.AddFlag(f)
		}
	})
	return own
}

func endpointRows() (native, dialect string) {
	var ours, theirs strings.Builder
	for _, e := range agent.Endpoints() {
		if strings.HasPrefix(e.Path, "/v1/") {
			fmt.Fprintf(&theirs, "| `%s %s` | %s |\n", e.Method, e.Path, e.Role)
			continue
		}
		note := endpointNotes[e.Method+" "+e.Path]
		if note == "" {
			note = "nothing"
		}
		fmt.Fprintf(&ours, "| `%s %s` | %s | %s |\n", e.Method, e.Path, e.Role, cell(note))
	}
	return ours.String(), theirs.String()
}

func errorRows() string {
	var b strings.Builder
	for _, e := range agent.ErrorCodes() {
		again := ""
		if e.Retryable {
			again = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %d | %d | %s | %s |\n", e.Code, e.Status, e.Exit, again, cell(e.Hint))
	}
	return b.String()
}
