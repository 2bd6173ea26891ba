package runbook

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// A page holds all of its runbook, loads nothing from anywhere, and its style is the one that its policy names.
func TestPagesAreWhole(t *testing.T) {
	library, err := Ours()
	if err != nil {
		t.Fatal(err)
	}
	index, err := library.Index()
	if err != nil {
		t.Fatal(err)
	}
	outside := regexp.MustCompile(`(?i)<(script|img|link|iframe|object|embed)|src=|https?:|@import|url\(|\bon[a-z]+=|style="`)
	for _, b := range library.All() {
		if !strings.Contains(string(index), `href="/runbooks/`+b.ID+`"`) {
			t.Errorf("the index does not lead to %s", b.ID)
		}
		page, err := b.Page()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{index, page} {
			if found := outside.Find(text); found != nil {
				t.Errorf("%s: the page has %q", b.ID, found)
			}
			if !strings.Contains(string(text), "<style>"+style+"</style>") {
				t.Errorf("%s: the style is not the one of the policy", b.ID)
			}
		}
		for _, h := range headings {
			if !strings.Contains(string(page), "<h2>"+h.name+"</h2>") {
				t.Errorf("%s: no heading %s", b.ID, h.name)
			}
		}
		for i := range b.Steps {
			if !strings.Contains(string(page), `id="`+b.Steps[i].ID+`"`) {
				t.Errorf("%s: no step %s", b.ID, b.Steps[i].ID)
			}
		}
	}
}

// What a runbook says cannot become markup.
func TestPageEscapes(t *testing.T) {
	evil := `<script>alert("x")</script>`
	text := example(t)
	for _, place := range []string{"Because.", "One line.", "- Do not.", "title: An example", "text: Start {{node}}."} {
		text = strings.Replace(text, place, place+" "+evil, 1)
	}
	page, err := mustParse(t, text).Page()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "<script") {
		t.Error("markup got through")
	}
	if got := strings.Count(string(page), "&lt;script&gt;"); got != 6 { // the title is there twice
		t.Errorf("the text is there %d times, want 6", got)
	}
}

func TestMarkdown(t *testing.T) {
	text := strings.Replace(example(t), "Because.", "A `code <b>` and\n**bold** word.\n\n1. one\n2. two\n   goes on\n\n- a\n- b\n\n| h | i |\n|---|---|\n| `x` | y |\n\n```\nsome code\n```\nEnd.", 1)
	page, err := mustParse(t, text).Page()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<p>A <code>code &lt;b&gt;</code> and <strong>bold</strong> word.</p>",
		"<ol><li>one</li><li>two goes on</li></ol>", "<ul><li>a</li><li>b</li></ul>",
		"<tr><th>h</th><th>i</th></tr><tr><td><code>x</code></td><td>y</td></tr>",
		"<pre>some code</pre>", "<p>End.</p>", "<pre>parley core --wait 5m --expect &#39;.margin &gt;= 1&#39;</pre>",
		"<pre>parley node status {{node}} --expect &#39;.name == $node and .reachable&#39;</pre>",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
}

// The policy is one that a header can carry.
func TestPolicyIsAHeader(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Security-Policy", ContentSecurityPolicy)
	w.WriteHeader(http.StatusOK)
	if got := w.Result().Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; ") || !strings.Contains(got, "style-src 'sha256-") {
		t.Errorf("got %q", got)
	}
}
