package command

import (
	"fmt"
	"io"
	"net/http"
	"path"
)

// fakeHistories are the versions of some keys: since when, and the newest first.
var fakeHistories = map[string]string{
	"greeting": `"since":5,"versions":[` + fakeVersion("hello", 7) + `,{"key":"greeting","revision":6,"deleted":true},` + fakeVersion("older", 5) + `]`,
	"changed":  `"since":0,"versions":[` + fakeVersion("b", 7) + `,` + fakeVersion("a", 5) + `]`,
	"first":    `"since":0,"versions":[` + fakeVersion("hello", 7) + `]`,
	"cut":      `"since":7,"versions":[` + fakeVersion("hello", 7) + `]`,
	"twice":    `"since":6,"versions":[{"key":"twice","revision":7,"deleted":true},{"key":"twice","revision":6,"deleted":true}]`,
}

func fakeVersion(value string, revision int) string {
	pair := fakePair("greeting", value, revision)
	return pair[:len(pair)-1] + `,"deleted":false}`
}

func serveFakeHistory(w http.ResponseWriter, r *http.Request) {
	key := path.Base(r.URL.Path)
	history, known := fakeHistories[key]
	switch {
	case key == "txn":
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, `{"succeeded":%t,"revision":8,"results":[{"op":"put","key":"k","pair":%s,"deleted":0}]}`, len(body) > 40, fakePair("k", string(body), 8))
	case r.Method == http.MethodDelete:
		_, _ = fmt.Fprintf(w, `{"key":%q,"purged":2}`, key)
	case !known:
		fakeError(w, 404, "not_found", fmt.Sprintf("no key %q, and no trace of one", key), 1, false)
	case r.Method == http.MethodGet:
		_, _ = fmt.Fprintf(w, `{"key":%q,%s}`, key, history)
	case r.URL.Query().Get("revision") != "7":
		fakeError(w, 409, "conflict", `the key "changed" was changed since, by revision 7: undo that one first`, 1, false)
	default:
		_, _ = fmt.Fprintf(w, `{"key":%q,"revision":8,"undone":7,"restored":5,"deleted":false}`, key)
	}
}
