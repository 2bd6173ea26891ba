package runbook

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/parley-mesh/parley/runbooks"
)

// The runbooks of this repository can be read, and nothing is wrong with them that a machine can see.
func TestOurRunbooks(t *testing.T) {
	library, err := Load(runbooks.Files)
	if err != nil {
		t.Fatal(err)
	}
	if len(library.All()) == 0 {
		t.Error("there are none")
	}
}

// Load checks what holds between runbooks, and names the files.
func TestLoad(t *testing.T) {
	text := example(t)
	other := strings.Replace(text, "id: example\ntitle", "id: other\ntitle", 1)
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, tt := range []struct {
		name  string
		files fstest.MapFS
		want  string
	}{
		{"fine", fstest.MapFS{"example.md": file(text), "other.md": file(strings.Replace(other, "an-alert", "another", 1)), "README": file("x")}, ""},
		{"an alert with two", fstest.MapFS{"example.md": file(text), "other.md": file(other)}, `other.md: the alert "an-alert" is also in example.md`},
		{"related to nothing", fstest.MapFS{"example.md": file(strings.Replace(text, "related: []", "related: [nothing]", 1))}, `the related runbook "nothing" does not exist`},
		{"a broken one", fstest.MapFS{"example.md": file(text), "x.md": file("hello")}, "x.md:1: the file does not begin with front matter"},
		{"misnamed", fstest.MapFS{"other.md": file(text)}, `the id "example" and the file's name differ`},
	} {
		library, err := Load(tt.files)
		switch {
		case tt.want == "" && (err != nil || !slices.Equal(library.IDs(), []string{"example", "other"})):
			t.Errorf("%s: %v, %v", tt.name, library, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	many := fstest.MapFS{}
	for i := range MaxRunbooks + 1 {
		id := fmt.Sprintf("r%d", i)
		many[id+".md"] = file(strings.NewReplacer("id: example\ntitle", "id: "+id+"\ntitle", "an-alert", id).Replace(text))
	}
	if _, err := Load(many); err == nil || !strings.Contains(err.Error(), "201 runbooks, at most 200") {
		t.Errorf("one more than fits: %v", err)
	}
	delete(many, "r0.md")
	if library, err := Load(many); err != nil || len(library.List()) != MaxRunbooks {
		t.Errorf("as many as fit: %v", err)
	}
	if _, ok := mustLoad(t, many).Get("r0"); ok {
		t.Error("found what is not there")
	}
}

func mustLoad(t *testing.T, files fstest.MapFS) *Library {
	t.Helper()
	library, err := Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return library
}
