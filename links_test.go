package parley

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mdLink is an inline link of Markdown: its target up to a fragment.
var mdLink = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)

// Every relative link of the Markdown files leads to a file that exists. A renamed page once left dead links behind.
func TestLinks(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && strings.HasPrefix(entry.Name(), ".") || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".md" {
			return nil
		}
		files++
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, dead := range deadLinks(name, string(text), exists) {
			t.Errorf("%s: no file %s", name, dead)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("%d Markdown files found", files)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// deadLinks lists the files that a page links to and that are not there. What is in code is no link.
func deadLinks(page, text string, exists func(string) bool) (dead []string) {
	inBlock := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inBlock = !inBlock
		}
		if inBlock {
			continue
		}
		for _, link := range mdLink.FindAllStringSubmatch(line, -1) {
			if strings.Contains(link[1], ":") { // an address elsewhere
				continue
			}
			if target := filepath.Join(filepath.Dir(page), link[1]); !exists(target) {
				dead = append(dead, target)
			}
		}
	}
	return dead
}

// The test can fail: dead links are found wherever they stand, and nothing else is taken for one.
func TestDeadLinksAreFound(t *testing.T) {
	there := map[string]bool{"docs/a.md": true, "README.md": true}
	text := "[a](a.md) and [b](b.md#part), [c](../README.md#top) [d](#here) [e](https://x.example/e.md)\n" +
		"| [f](sub/f.md) |\n```\nlist[0](g.md)\n```\n[h](../h.md)\n"
	got := deadLinks("docs/page.md", text, func(name string) bool { return there[filepath.ToSlash(name)] })
	if want := "docs/b.md docs/sub/f.md h.md"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
}
