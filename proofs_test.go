package parley

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	testName = regexp.MustCompile(`\b((?:Test|Fuzz|Benchmark)[A-Z]\w*)(?:/(\w+))?`)
	codeSpan = regexp.MustCompile("(scripts? )?`([^`]+)`")
)

// Every test that a page names exists, in the package that it names. A promise whose test was renamed is not proven.
func TestNamedTestsExist(t *testing.T) {
	tree := testTree(t)
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for _, page := range append(pages, "storage/FORMAT.md", "transport/WIRE.md", "testing/RECORD.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		names += len(testName.FindAllString(string(text), -1))
		for _, missing := range missingTests(string(text), tree) {
			t.Errorf("%s: %s", page, missing)
		}
	}
	if names < 100 {
		t.Errorf("%d names of tests found", names)
	}
	text, err := os.ReadFile("docs/consistency.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range unproven(string(text)) {
		t.Errorf("docs/consistency.md: no test, or no reason: %s", row)
	}
}

// tests are the packages by their directories: the names of their tests, and the texts in which subtests and scripts are.
type tests map[string]*packageTests

type packageTests struct {
	names   []string
	source  string
	scripts []string // names of the files in testdata, also without what follows the dot
}

func testTree(t *testing.T) tests {
	t.Helper()
	tree := tests{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		dir, inside, data := strings.Cut(filepath.ToSlash(name), "/testdata/")
		if !data {
			dir = filepath.ToSlash(filepath.Dir(name))
		}
		if tree[dir] == nil {
			tree[dir] = &packageTests{}
		}
		p := tree[dir]
		switch {
		case data && !entry.IsDir():
			base := filepath.Base(inside)
			p.scripts = append(p.scripts, base, strings.TrimSuffix(base, filepath.Ext(base)))
		case strings.HasSuffix(name, "_test.go"):
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			p.source += string(text)
			for _, found := range testFunc.FindAllStringSubmatch(string(text), -1) {
				p.names = append(p.names, found[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// missingTests lists what a page names and is not there. In a row of a table a test belongs to the package that was named
// last before it; where none was, and outside of tables, any package may have it.
func missingTests(page string, tree tests) (missing []string) {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "|") {
			for _, name := range testName.FindAllStringSubmatch(line, -1) {
				if !tree.anywhere(name[1]) {
					missing = append(missing, "no test "+name[0])
				}
			}
			continue
		}
		at := "" // the package
		for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
			p, isPackage := tree[span[2]]
			name := testName.FindStringSubmatch(span[2])
			named := len(name) > 0
			switch {
			case isPackage && len(p.names) > 0:
				at = span[2]
			case named && at == "":
				if !tree.anywhere(name[1]) {
					missing = append(missing, "no test "+name[0])
				}
			case named && !slices.Contains(tree[at].names, name[1]):
				missing = append(missing, fmt.Sprintf("no test %s in %s", name[1], at))
			case named && name[2] != "" && !slices.Contains(tree[at].scripts, name[2]) && !strings.Contains(tree[at].source, `"`+name[2]+`"`):
				missing = append(missing, fmt.Sprintf("no subtest %s in %s", name[0], at))
			case span[1] != "" && (at == "" || !slices.Contains(tree[at].scripts, span[2])):
				missing = append(missing, fmt.Sprintf("no script %s in %s", span[2], at))
			}
		}
	}
	return missing
}

func (tree tests) anywhere(name string) bool {
	for _, p := range tree {
		if slices.Contains(p.names, name) {
			return true
		}
	}
	return false
}

// unproven lists the rows of the page of promises without a test, and those of what is not promised without a reason.
func unproven(page string) (rows []string) {
	head := ""
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			head = ""
		case head == "":
			head = strings.TrimSpace(cells[0])
		case strings.HasPrefix(line, "|---"):
		case len(cells) != 2, strings.TrimSpace(cells[1]) == "", head != "not promised" && !testName.MatchString(cells[1]):
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	return rows
}

// The test can fail: what is missing is found, in tables and in prose, and nothing else.
func TestMissingTestsAreFound(t *testing.T) {
	tree := tests{"a": {names: []string{"TestA"}, source: `t.Run("sub", f)`, scripts: []string{"s.txtar", "s"}}, "b/c": {names: []string{"TestB"}}}
	page := "| x | `a` `TestA`, `TestB`; `b/c` `TestB`, `TestA` |\n| y | `TestA`, `TestE` |\n| z | `a` `TestA/sub`, `TestA/none`, script `s`, script `u` |\n" +
		"In prose `TestB`, or `TestC`.\n```\ngo test -run TestD ./a\n```\n"
	want := "no test TestB in a; no test TestA in b/c; no test TestE; no subtest TestA/none in a; no script u in a; " +
		"no test TestC; no test TestD"
	if got := strings.Join(missingTests(page, tree), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	table := "| promise | test |\n|---|---|\n| p | `a` `TestA` |\n| q | nothing |\n\n| not promised | why |\n|---|---|\n| r | because |\n| s | |\n"
	if got := unproven(table); len(got) != 2 || !strings.HasPrefix(got[0], "| q") || !strings.HasPrefix(got[1], "| s") {
		t.Errorf("unproven: %q", got)
	}
}
