package runbook

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// MaxRunbooks is how many a library holds.
const MaxRunbooks = 200

// Library is a set of runbooks that belong together. It is not changed after Load.
type Library struct {
	books []*Runbook // by id
}

// Load reads all runbooks at the top of a file system; runbooks.Files are ours. It also checks what holds between them:
// an alert has one runbook, and what is related exists.
func Load(files fs.FS) (*Library, error) {
	names, err := fs.Glob(files, "*.md")
	if err != nil {
		return nil, err
	}
	if len(names) > MaxRunbooks {
		return nil, fmt.Errorf("%d runbooks, at most %d", len(names), MaxRunbooks)
	}
	l := &Library{}
	var problems []error
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		book, err := Parse(path.Base(name), text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		l.books = append(l.books, book)
	}
	slices.SortFunc(l.books, func(a, b *Runbook) int { return strings.Compare(a.ID, b.ID) })
	if problems = append(problems, l.check()...); len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return l, nil
}

func (l *Library) check() (problems []error) {
	owner := make(map[string]string) // of an alert
	for _, b := range l.books {
		for _, alert := range b.Alerts {
			if other, taken := owner[alert]; taken {
				problems = append(problems, fmt.Errorf("%s.md: the alert %q is also in %s.md: an alert has one runbook", b.ID, alert, other))
			}
			owner[alert] = b.ID
		}
	}
	for _, b := range l.books {
		for _, id := range b.Related {
			if _, ok := l.Get(id); !ok {
				problems = append(problems, fmt.Errorf("%s.md: the related runbook %q does not exist", b.ID, id))
			}
		}
	}
	return problems
}

// All returns the runbooks by id.
func (l *Library) All() []*Runbook { return slices.Clone(l.books) }

// IDs are their names.
func (l *Library) IDs() []string {
	ids := make([]string, len(l.books))
	for i, b := range l.books {
		ids[i] = b.ID
	}
	return ids
}

// Get returns one runbook.
func (l *Library) Get(id string) (*Runbook, bool) {
	i, ok := slices.BinarySearchFunc(l.books, id, func(b *Runbook, id string) int { return strings.Compare(b.ID, id) })
	if !ok {
		return nil, false
	}
	return l.books[i], true
}

// Entry is a runbook in a list.
type Entry struct {
	ID          string      `json:"id"`
	Title       string      `json:"title"`
	FailureMode FailureMode `json:"failure_mode"`
	Alerts      []string    `json:"alerts"`
	Severity    string      `json:"severity"`
	// LastDrill is null: this version keeps no drills.
	LastDrill *struct{} `json:"last_drill"`
}

// List is the library as a list.
func (l *Library) List() []Entry {
	list := make([]Entry, len(l.books))
	for i, b := range l.books {
		list[i] = b.Entry()
	}
	return list
}

// Entry is the runbook as a line of a list.
func (b *Runbook) Entry() Entry {
	return Entry{ID: b.ID, Title: b.Title, FailureMode: b.FailureMode, Alerts: b.Alerts, Severity: b.Severity}
}

// Whole is all of a runbook, as JSON.
type Whole struct {
	Front
	LastDrill *struct{} `json:"last_drill"`
	Inputs    []string  `json:"inputs"` // variables that the caller gives
	Sections  []Section `json:"sections"`
	Steps     []Step    `json:"steps"`
}

// Whole is the runbook as a value for JSON.
func (b *Runbook) Whole() Whole {
	inputs := b.Inputs()
	if inputs == nil {
		inputs = []string{}
	}
	return Whole{Front: b.Front, Inputs: inputs, Sections: b.Sections, Steps: b.Steps}
}
