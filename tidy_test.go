package parley

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This test is the executable half of ARCHITECTURE.md: who may import whom, which packages are
// pure, and the sizes that keep the tree readable. A change to the maps below is a design change:
// it comes with its reason in ARCHITECTURE.md, in the same commit.

const module = "github.com/parley-mesh/parley"

const (
	maxFileLines     = 600
	maxTestFileLines = 1000
	maxFuncLines     = 70
)

// anyOfOurs lets a package import every other one.
const anyOfOurs = "*"

// parts are what the agent composes.
var parts = []string{
	"api", "api/consul", "api/httpconn", "api/wire", "clock", "consensus", "membership", "mutant", "mesh/dns", "mesh/health", "mesh/proxy",
	"mesh/xds", "ops", "ops/runbook", "ops/slo", "runbooks", "security", "security/external", "security/federation", "security/policy",
	"security/tpm", "security/workload", "security/invocation",
	"state", "state/watch", "storage", "transport",
}

// mayImport is the import graph, ours only. Arrows point down: a package that is not here fails.
// Test files are free, so that a part can be tested against the real thing below or beside it.
var mayImport = map[string][]string{
	".": nil,

	"clock":           nil,
	"mutant":          nil, // constant false without its build tag; what is to be broken imports it
	"runbooks":        nil,
	"security/policy": nil,
	"storage":         {"mutant"}, // implements consensus.Log by shape
	"transport":       nil,

	"state":       {"clock", "mutant", "security/policy"},
	"state/watch": {"clock", "mutant", "state"},
	"consensus":   {"clock", "mutant"}, // defines StateMachine, Log and Snapshots for itself
	"security":    {"mutant", "security/policy", "security/tpm", "transport"},
	"membership":  {"transport"},

	"security/invocation":            nil,                                           // asks systemd, and knows nothing of identities
	"security/workload":              {"mutant", "security", "security/invocation"}, // asks for identities by an interface of its own
	"security/svidfiles":             nil,                                           // files and the standard's own types
	"security/external":              {"security"},                                  // brings to a Source what the Workload API of another authority says
	"security/external/externaltest": {"clock"},                                     // for tests: another authority, with its Workload API
	"security/federation":            nil,                                           // bundles are the standard's own type
	"security/tpm":                   nil,                                           // a key exchange of the standard library's own kind
	"security/tpm/tpmtest":           nil,                                           // for tests: runs a TPM in software

	"mesh/dns":    {"state", "state/watch"},
	"mesh/health": {"state", "state/watch"},
	"mesh/proxy":  {"state", "state/watch"},
	"mesh/xds":    {"state", "state/watch"},

	"ops":       {"clock", "ops/slo", "runbooks", "state"},
	"ops/lab":   {"api/client"},
	"ops/drill": {"ops", "ops/lab", "runbooks"},
	"ops/slo":   nil,

	"ops/runbook": {"runbooks"}, // an engine is one idea: it reads, checks and walks, and knows no metric and no alert

	"api":        {"api/httpconn", "api/wire", "clock", "ops", "ops/runbook", "ops/slo", "security", "security/policy", "state", "state/watch"},
	"api/client": {"api/wire", "clock", "transport"}, // what a program takes with it: no part of the agent itself
	"api/wire":   nil,

	"api/httpconn": nil, // below net/http, and knows no request
	"api/consul":   {"api", "security/policy", "state", "state/watch"},

	"agent":                append([]string{"agent/config"}, parts...),
	"agent/config":         parts,
	"agent/command":        {"agent", "agent/config", "api/client", "clock", "ops", "ops/drill", "ops/lab", "ops/runbook", "security", "security/svidfiles"},
	"agent/command/consul": {"agent/command", "agent/config", "api/client", "api/consul"}, // api/consul: the version that it claims
	"cmd/agent":            {"agent/command", "agent/command/consul"},                     // chooses by the program's name

	"sim":               {"clock", "consensus", "mutant", "state", "state/watch", "storage"},
	"test/bench":        {anyOfOurs},
	"test/bench/etcd":   {"test/bench/load"},
	"test/bench/load":   nil,
	"test/bench/report": nil,
	"test/compat":       nil, // a module of its own: the client's tests and what runs them
	"test/e2e":          {anyOfOurs},
}

// pure says which non-test files take events and return effects and do nothing else: path patterns
// of package path.
var pure = []string{
	"clock/*.go", "security/policy/*.go", "state/*.go", "consensus/core*.go", "state/watch/protocol*.go",
	"ops/alert*.go", "ops/explain*.go", "ops/readings.go", "ops/slo/*.go",
	"ops/check.go", "ops/precheck.go",
	"ops/runbook/*.go",
	"security/rotation.go",
	"agent/sessionbook.go", "agent/canarybook.go", "agent/generationbook.go",
}

// impure are the exceptions.
var impure = []string{
	"clock/system*.go",    // the one place where the machine's clocks are read, injected elsewhere
	"ops/runbook/run*.go", // limits each step's time by its context
	"ops/runbook/ours.go", // reads the embedded runbooks once
}

// impureImports are packages through which a pure file would touch the world, with all below them.
var impureImports = []string{
	"context", "crypto/rand", "go.uber.org/zap", "golang.org/x/sync", "golang.org/x/sys", "log", "math/rand",
	"net", "os", "sync", "syscall", "testing",
}

// pureImports are the exceptions.
var pureImports = []string{"net/netip", "net/url", "sync/atomic"}

// clockReaders may read the wall or monotonic clock: by file or directory, with the reason. Beside
// them, only clock does, and arguments of Set...Deadline calls anywhere.
var clockReaders = map[string]string{
	"api/client/identity.go":   "a client outside an agent judges certificates, and when to renew its own, by its host's clock",
	"api/httpconn":             "tells a deadline that has passed from one that the poller was told before",
	"agent/command":            "shows ages and durations to a person",
	"agent/stream.go":          "paces reconnects",
	"consensus/node_refuse.go": "paces log lines",
	"consensus/peers.go":       "paces reconnects",
	"ops/lab":                  "waits for processes, in tests and demonstrations",
	"test":                     "measures real time",
	"transport/client.go":      "sends what is left of the caller's deadline",
	"transport/serverconn.go":  "ends calls at their deadlines",
}

// badNames are directories that say nothing about what they own.
var badNames = []string{"common", "helpers", "misc", "pkg", "shared", "types", "util", "utils"}

// source is a parsed file.
type source struct {
	path      string // from the root, with slashes
	fset      *token.FileSet
	file      *ast.File
	lines     int
	generated bool
}

func (s source) dir() string  { return path.Dir(s.path) }
func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }
func (s source) line(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(p).Line)
}

// parseSource parses the text of the file at name.
func parseSource(name string, text []byte) (source, error) {
	s := source{path: name, fset: token.NewFileSet(), lines: strings.Count(string(text), "\n")}
	file, err := parser.ParseFile(s.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	s.file, s.generated = file, err == nil && ast.IsGenerated(file)
	return s, err
}

// rules are all of them. Each returns its problems, one line each.
var rules = map[string]func([]source) []string{
	"import graph":        checkGraph,
	"purity":              checkPurity,
	"clock readers":       checkClock,
	"package comment":     checkComments,
	"file length":         checkFileLength,
	"function length":     checkFuncLength,
	"directory names":     checkNames,
	"nothing left behind": checkLeftovers,
}

func TestTidy(t *testing.T) {
	sources := readTree(t)
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			for _, problem := range rule(sources) {
				t.Error(problem)
			}
		})
	}
}

// readTree parses the module's Go files. Other modules, test data and hidden directories are not ours.
func readTree(t *testing.T) []source {
	var sources []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, statErr := os.Stat(filepath.Join(name, "go.mod"))
			otherModule := name != "." && statErr == nil
			hidden := name != "." && strings.HasPrefix(entry.Name(), ".")
			if otherModule || hidden || entry.Name() == "testdata" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		s, err := parseSource(filepath.ToSlash(name), text)
		if err == nil {
			sources = append(sources, s)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// ourImports are a file's imports within the module, as directories.
func ourImports(s source) map[string]*ast.ImportSpec {
	found := make(map[string]*ast.ImportSpec)
	for _, spec := range s.file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if name == module {
			found["."] = spec
		} else if dir, ours := strings.CutPrefix(name, module+"/"); ours {
			found[dir] = spec
		}
	}
	return found
}

func checkGraph(sources []source) (problems []string) {
	for _, s := range sources {
		allowed, known := mayImport[s.dir()]
		if !known {
			problems = append(problems, s.path+": package "+s.dir()+" is not in mayImport: add it there and to ARCHITECTURE.md")
			continue
		}
		if s.isTest() {
			continue
		}
		for dir, spec := range ourImports(s) {
			if !slices.Contains(allowed, dir) && !slices.Contains(allowed, anyOfOurs) {
				problems = append(problems, s.line(spec.Pos())+": "+s.dir()+" may not import "+dir+
					"; it may import ["+strings.Join(allowed, " ")+"]")
			}
		}
	}
	return problems
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		if err != nil {
			panic("bad pattern " + pattern)
		}
		return ok
	})
}

func checkPurity(sources []source) (problems []string) {
	for _, s := range sources {
		if s.isTest() || !matchesAny(pure, s.path) || matchesAny(impure, s.path) {
			continue
		}
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if isImpure(name) {
				problems = append(problems, s.line(spec.Pos())+": a pure file imports "+name+"; time, randomness and I/O come in as values")
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if statement, ok := n.(*ast.GoStmt); ok {
				problems = append(problems, s.line(statement.Pos())+": a pure file starts a goroutine")
			}
			if name, ok := timeCall(s, n); ok {
				problems = append(problems, s.line(n.Pos())+": a pure file uses time."+name)
			}
			return true
		})
	}
	return problems
}

func isImpure(name string) bool {
	if slices.Contains(pureImports, name) {
		return false
	}
	return slices.ContainsFunc(impureImports, func(bad string) bool {
		return name == bad || strings.HasPrefix(name, bad+"/")
	})
}

// clockFuncs are the functions of package time that read a clock or wait on one.
var clockFuncs = []string{
	"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker",
}

// timeCall reports whether n names one of clockFuncs, under whatever name the file imports time by.
func timeCall(s source, n ast.Node) (name string, ok bool) {
	selector, ok := n.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	qualifier, ok := selector.X.(*ast.Ident)
	if !ok || qualifier.Name != importName(s, "time") {
		return "", false
	}
	return selector.Sel.Name, slices.Contains(clockFuncs, selector.Sel.Name)
}

// importName is the name by which the file calls a package, "" when it does not import it.
func importName(s source, imported string) string {
	for _, spec := range s.file.Imports {
		if name, _ := strconv.Unquote(spec.Path.Value); name != imported {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func checkClock(sources []source) (problems []string) {
	for _, s := range sources {
		if s.isTest() || s.dir() == "clock" || mayReadClock(s.path) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && setsDeadline(call) {
				return false
			}
			if name, ok := timeCall(s, n); ok && slices.Contains([]string{"Now", "Since", "Until"}, name) {
				problems = append(problems, s.line(n.Pos())+": time."+name+" outside clock: inject a clock, or list the file with its reason")
			}
			return true
		})
	}
	return problems
}

func mayReadClock(name string) bool {
	for reader := range clockReaders {
		if name == reader || strings.HasPrefix(name, reader+"/") {
			return true
		}
	}
	return false
}

func setsDeadline(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"SetDeadline", "SetReadDeadline", "SetWriteDeadline"}, selector.Sel.Name)
}

func checkComments(sources []source) (problems []string) {
	count := make(map[string]int)
	for _, s := range sources {
		if s.isTest() || s.generated {
			continue
		}
		count[s.dir()] += 0
		if s.file.Doc == nil {
			continue
		}
		count[s.dir()]++
		name := s.file.Name.Name
		if name != "main" && !strings.HasPrefix(s.file.Doc.Text(), "Package "+name+" ") {
			problems = append(problems, s.path+": the package comment does not begin with \"Package "+name+" \"")
		}
	}
	for dir, n := range count {
		if n != 1 {
			problems = append(problems, dir+": "+strconv.Itoa(n)+" package comments, want exactly one")
		}
	}
	return problems
}

func checkFileLength(sources []source) (problems []string) {
	for _, s := range sources {
		limit := maxFileLines
		if s.isTest() {
			limit = maxTestFileLines
		}
		if s.lines > limit && !s.generated {
			problems = append(problems, s.path+": "+strconv.Itoa(s.lines)+" lines, at most "+strconv.Itoa(limit)+": split it by idea")
		}
	}
	return problems
}

func checkFuncLength(sources []source) (problems []string) {
	for _, s := range sources {
		if s.isTest() || s.generated {
			continue
		}
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if lines > maxFuncLines {
				problems = append(problems, s.line(f.Pos())+": "+f.Name.Name+" has "+strconv.Itoa(lines)+
					" lines, at most "+strconv.Itoa(maxFuncLines))
			}
		}
	}
	return problems
}

func checkNames(sources []source) (problems []string) {
	for _, s := range sources {
		for _, element := range strings.Split(s.dir(), "/") {
			if slices.Contains(badNames, element) {
				problems = append(problems, s.path+": a directory named "+element+" says nothing about what it owns")
			}
		}
	}
	return problems
}

// leftovers are words that mark unfinished work in comments.
var leftovers = []string{"TO" + "DO", "FIX" + "ME", "X" + "XX:"}

func checkLeftovers(sources []source) (problems []string) {
	for _, s := range sources {
		for _, group := range s.file.Comments {
			for _, word := range leftovers {
				if strings.Contains(group.Text(), word) {
					problems = append(problems, s.line(group.Pos())+": "+word+" in a comment: do it, or open an issue")
				}
			}
		}
	}
	return problems
}
