package runbook

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the pages are files
	"encoding/base64"
	"html/template"
	"strings"
)

// The pages are whole: no script, no image, no font, nothing from elsewhere, so that they can be read with everything
// else broken.
var (
	//go:embed page.css
	style string
	//go:embed page.html
	pageText string

	pages = template.Must(template.New("").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) }, //nolint:gosec // our own file
	}).Parse(pageText))
)

// ContentSecurityPolicy is what the pages may load: nothing, beside the style that is in them.
var ContentSecurityPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-" +
	styleHash() + "'"

func styleHash() string {
	sum := sha256.Sum256([]byte(style))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Index is the page that lists the runbooks.
func (l *Library) Index() ([]byte, error) { return render("index", l.List()) }

// pageSection is a section with its blocks.
type pageSection struct {
	Heading string
	Blocks  []block
}

// Page is the runbook as a page.
func (b *Runbook) Page() ([]byte, error) {
	sections := make([]pageSection, len(b.Sections))
	for i, s := range b.Sections {
		sections[i] = pageSection{Heading: s.Heading, Blocks: b.blocks(s)}
	}
	return render("runbook", struct {
		*Runbook
		Body []pageSection
	}{b, sections})
}

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	err := pages.ExecuteTemplate(&out, name, data)
	return out.Bytes(), err
}

// Paste is a step's command as one types it, with its expectation. Variables stay {{name}}.
func (s *Step) Paste() string {
	args, err := SplitCommand(s.Run)
	if err != nil {
		return s.Run
	}
	return strings.NewReplacer("'{{", "{{", "}}'", "}}").Replace(paste(args, s.Expect.JQ))
}
