package command

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
)

const fakeCore = `{"leader":"a1","term":3,"commit_index":9007199254740993,"applied_index":41,"size":3,"margin":1,"read_only":false,
 "voters":[{"name":"a1","raft_id":"1","healthy":true},{"name":"a2","raft_id":"a","healthy":false}],"learners":[],"held":[],
 "epoch":2,"epoch_id":"000102030405060708090a0b0c0d0e0f"}`

// fakeAnswers are what the fake agent says to GET; the key/value paths are in serveKV.
var fakeAnswers = map[string]string{
	"/parley/v1/status": `{"name":"a1","cluster_id":"c0ffee","trust_domain":"td.example","version":"v1","ready":true,"safe_mode":0,
	 "core":` + fakeCore + `,"svid":{"spiffe_id":"spiffe://td.example/parley/agent/a1","not_after":"2026-01-02T03:04:05Z"},
	 "digest":{"revision":7,"public":"00ff","all":"00ff"}}`,
	"/parley/v1/members": `[{"name":"a1","spiffe_id":"spiffe://td.example/parley/agent/a1","state":"alive","address":"127.0.0.1:8310","zone":"z1","core":"leader","copied":false},
	 {"name":"a2","spiffe_id":"spiffe://td.example/parley/agent/a2","state":"dead","address":"127.0.0.2:8310","zone":"","core":"none","copied":true}]`,
	"/parley/v1/slo": `[{"name":"config-write","target":0.999,"window":"30d","sli":0.9995,"budget_remaining_ratio":0.5,
	 "burn":{"5m":0.4,"30m":20,"1h":0,"2h":0,"6h":0,"1d":0,"3d":0},"firing":["slo-config-write-page"],"good":1999,"bad":1},
	 {"name":"membership-accuracy","target":0.9999,"window":"30d","sli":null,"budget_remaining_ratio":null,
	 "burn":{"5m":null,"30m":null,"1h":null,"2h":null,"6h":null,"1d":null,"3d":null},"firing":[],"good":0,"bad":0}]`,
	"/parley/v1/alerts": `[{"id":"quorum-margin","state":"firing","severity":"page","value":0,"threshold":0,"since":"2026-01-02T03:04:05Z","summary":"one more lost core member stops writes","runbook":"server-down"},
	 {"id":"crash-loop","state":"no_data","severity":"page","value":null,"threshold":3,"since":"2026-01-02T03:04:05Z","summary":"an agent restarts","runbook":"crash-loop"}]`,
	"/parley/v1/health": `{"ready":false,"capabilities":[{"name":"discovery","ok":true},{"name":"writes","ok":false,"detail":"no leader is known"}]}`,
	"/parley/v1/health/explain": `{"healthy":false,"causes":[{"rank":1,"cause":"core-member-dead","subject":"a2","severity":"page",
	 "evidence":["gossip holds voter a2 dead","0 of 3 voters may still fail"],"alert":"quorum-margin","runbook":"server-down","command":"parley runbook run server-down --var node=a2"}]}`,
	"/parley/v1/core": fakeCore,
	"/parley/v1/events": `[{"hlc":"1700000000000.1","time":"2023-11-14T22:13:20Z","node":"a1","kind":"agent-started","subject":"a1","message":"start 1","pending":false,"reported_at":"2023-11-14T22:20:00Z"},
	 {"hlc":"","time":"2023-11-14T22:21:00Z","node":"a1","kind":"note","subject":"","message":"m","pending":true,"reported_at":"2023-11-14T22:21:00Z"}]`,
	"/parley/v1/apply": `{"members":[{"name":"a1","commit":43,"applied":41,"lag":2,"withheld":42,"stopped_at":{"index":42,"command":0,"cause":"panic","signature":"00ff"}},{"name":"a2","commit":43,"applied":43,"lag":0,"withheld":0,"stopped_at":null}],"unreachable":["a3"],"cases":[{"index":42,"command":0,"stopped":["a1"],"answers":{"a1":"not applied","a3":"none"},"verdict":"it waits"}],"quarantined":[{"index":7,"command":1,"kind":"put","hash":"00ff","at":"2026-01-01T00:00:00Z"}]}`,
	"/parley/v1/digest/compare": `{"groups":2,"index":42,"members":[{"name":"a1","digest":"aa"},{"name":"a2","digest":"aa"},{"name":"a3","digest":"bb"}],"minority":["a3"],"unreachable":["a4"],"behind":[],
	 "differences":[{"member":"a3","table":"kv","key":"web/1"}]}`,
	"/parley/v1/digest/diff": `{"reference":"a1","index":42,"members":["a3"],"differences":[{"member":"a3","table":"kv","key":"web/1","kind":"differs","revision":5,"reference_revision":5,"hash":"aa","reference_hash":"bb"}],"more":false,"unanswered":[]}`,
	"/parley/v1/invariants":  `{"count":0,"invariants":[{"id":"one-leader-a-term","what":"A term has one leader.","holds":true,"violations":0,"detail":""}]}`,
	"/parley/v1/identity": `{
  "outage_in_s": 1800,
  "first": {"spiffe_id": "spiffe://lab.test/parley/agent/a1", "link": "leaf", "of": "agent", "serial": "4f01", "not_after": "2026-11-26T20:00:00Z", "remaining_ratio": 0.5},
  "certificates": [
    {"spiffe_id": "spiffe://lab.test/parley/agent/a1", "link": "leaf", "of": "agent", "serial": "4f01", "not_after": "2026-11-26T20:00:00Z", "remaining_ratio": 0.5},
    {"spiffe_id": "spiffe://lab.test", "link": "issuer", "of": "agent", "serial": "4f02", "not_after": "2026-11-27T12:00:00Z", "remaining_ratio": 0.7},
    {"spiffe_id": "spiffe://lab.test", "link": "root", "of": "agent", "serial": "4f03", "not_after": "2036-11-23T12:00:00Z", "remaining_ratio": 0.99},
    {"spiffe_id": "spiffe://lab.test/svc/web", "link": "leaf", "of": "workload", "serial": "4f04", "not_after": "2026-11-26T21:00:00Z", "remaining_ratio": 0.9}
  ]
}`,
	"/parley/v1/debug/recordings": `[{"name":"invariant-applied-in-order-0a1b2c3d.rec","bytes":27886,"at":"2026-11-26T23:40:00Z"}]`,
	"/parley/v1/net/matrix": `{"agents":["a1","a2"],"links":[{"from":"a1","to":"a2","udp":"fallback","tcp":"ok","rtt_ms":0.25},
	 {"from":"a2","to":"a1","udp":"ok","tcp":"down","rtt_ms":0}],"unreachable":1,"udp_fallback":1,"asymmetric":1,"unknown":0,"relayed":0}`,
	"/parley/v1/node/a2": `{"name":"a2","state":"dead","incarnation":7,"starts_10m":3,"crash_starts_10m":3,"safe_mode":0,"core":"voter","address":"127.0.0.2:8310","zone":"","version":"v1","reachable":false}`,
	"/parley/v1/tokens":  `[]`,
	"/parley/v1/check": `{"ok":false,"checks":[{"id":"leader","status":"fail","message":"no leader","hint":"start one","runbook":"server-down"},
	 {"id":"disk","status":"ok","message":"9 GiB free","hint":"","runbook":""},{"id":"zones","status":"warn","message":"one zone","hint":"add one","runbook":""}]}`,
	"/parley/v1/storage/scrub": `{"errors":1,"disagree":1,"segments":2,"entries":3,"snapshots":0,"bytes":9,"healed":0,"problems":[{"file":"wal/1.wal","offset":4096,"message":"frame 1: bad"}]}`,
}

// fakeAgent answers like an agent; its keys live in a map, with one revision for each write.
type fakeAgent struct {
	mu struct {
		sync.Mutex
		values   map[string]string
		revision int
		asked    int // how often key/late was asked for
	}
}

func newFakeAgent() *httptest.Server {
	f := &fakeAgent{}
	f.mu.values = map[string]string{"greeting": "hello", "raw": "\xff\x00", "many/1": "x", "many/2": "a\nb"}
	f.mu.revision = 7
	return httptest.NewServer(f)
}

func (f *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case path == "/parley/v1/events" && r.Method == http.MethodPost:
		_, _ = io.WriteString(w, `{"hlc":"1700000000000.2","time":"2023-11-14T22:13:20Z","node":"a1"}`)
	case fakeAnswers[path] != "" && r.Method == http.MethodGet:
		_, _ = io.WriteString(w, fakeAnswers[path])
	case path == "/parley/v1/token":
		_, _ = io.WriteString(w, `{"id":"0011223344556677","token":"parley1-SECRET","expires_at":"2026-01-02T03:04:05Z",
		 "join_command":"parley agent --join 127.0.0.1:8310 --token-file TOKEN_FILE"}`)
	case strings.HasPrefix(path, "/parley/v1/token/"):
		fakeError(w, 403, "denied", "the role discovery may not revoke tokens", 4, false)
	case path == "/parley/v1/digest/accept":
		_, _ = io.WriteString(w, `{"node":"a2","index":42}`)
	case strings.HasPrefix(path, "/parley/v1/session"):
		fakeSessions(w, r)
	case strings.HasPrefix(path, "/parley/v1/core/"):
		_, _ = io.WriteString(w, `{}`)
	case strings.HasPrefix(path, "/parley/v1/history/"), strings.HasPrefix(path, "/parley/v1/undo/"), path == "/parley/v1/txn":
		serveFakeHistory(w, r)
	case strings.HasPrefix(path, "/parley/v1/kv/"):
		f.serveKV(w, r, strings.TrimPrefix(path, "/parley/v1/kv/"))
	default:
		fakeError(w, 404, "no_endpoint", "no endpoint "+path, 1, false)
	}
}

const fakeSession = `{"id":"adf4238a-882b-9ddc-4a9d-5b6758e4159e","name":"job","node":"a1","ttl":"30s","lease":"30s","behavior":"release",
 "lock_delay":"15s","created_at":"2026-01-02T03:04:05Z","created_hlc":"1.0","fencing_token":12}`

func fakeSessions(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/gone"):
		fakeError(w, 404, "not_found", "there is no session gone", 1, false)
	case r.URL.Query().Has("node"):
		_, _ = io.WriteString(w, `[]`)
	case strings.HasSuffix(r.URL.Path, "/sessions"):
		_, _ = io.WriteString(w, "["+fakeSession+"]")
	case r.Method == http.MethodDelete:
		_, _ = io.WriteString(w, `{"id":"adf4238a-882b-9ddc-4a9d-5b6758e4159e","revision":9}`)
	default:
		_, _ = io.WriteString(w, fakeSession)
	}
}

func fakeError(w http.ResponseWriter, status int, code, message string, exit int, retry bool) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"error":{"code":%q,"message":%q,"hint":"do something about it","leader":null,"request_id":"r1","exit_code":%d,"retryable":%t}}`,
		code, message, exit, retry)
}

func (f *fakeAgent) serveKV(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	query := r.URL.Query()
	value, exists := f.mu.values[key]
	switch {
	case key == "noleader":
		fakeError(w, 503, "no_leader", "the core has no leader", 3, true)
	case key == "unknown":
		fakeError(w, 504, "outcome_unknown", "no answer to the write", 5, false)
	case key == "late":
		if f.mu.asked++; f.mu.asked < 3 {
			fakeError(w, 404, "not_found", `no key "late"`, 1, false)
			return
		}
		_, _ = io.WriteString(w, fakePair(key, "here", 9))
	case query.Get("revision") == "5":
		_, _ = io.WriteString(w, fakePair(key, "older", 5))
	case query.Has("revision"):
		fakeError(w, 404, "not_found", "the history of \"greeting\" begins at revision 5: what it was at 2 is not kept any more", 1, false)
	case query.Has("cas") && query.Get("cas") != "7":
		fakeError(w, 409, "conflict", "the revision is 7", 1, false)
	case query.Get("session") == "other":
		fakeError(w, 409, "conflict", "the key is held by session adf4238a", 1, false)
	case query.Has("session"):
		_, _ = fmt.Fprintf(w, `{"key":%q,"revision":8,"lock_index":1}`, key)
	case query.Has("watch"):
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "event: put\ndata: %s\n\nevent: ready\ndata: {\"revision\":7}\n\nevent: put\ndata: %s\n\nevent: delete\ndata: {\"key\":%q,\"revision\":9}\n\n",
			fakePair(key, "hello", 7), fakePair(key, "bye", 8), key)
		w.(http.Flusher).Flush()
		f.mu.Unlock()
		<-r.Context().Done()
		f.mu.Lock()
	case query.Has("keys"):
		_, _ = io.WriteString(w, `["many/1","many/2"]`)
	case query.Has("prefix") && r.Method == http.MethodGet:
		_, _ = fmt.Fprintf(w, "[%s,%s]", fakePair("many/1", "x", 7), fakePair("many/2", "a\nb", 7))
	case r.Method == http.MethodGet && !exists:
		fakeError(w, 404, "not_found", fmt.Sprintf("no key %q", key), 1, false)
	case key == "raw" && r.Method == http.MethodGet:
		_, _ = io.WriteString(w, `{"key":"raw","value_base64":"/wA=","flags":0,"revision":7,"create_revision":2,"version":3,"modified_at":"2026-01-02T03:04:05Z","modified_hlc":"1.0"}`)
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(w, fakePair(key, value, 7))
	default:
		f.write(w, r, key)
	}
}

func (f *fakeAgent) write(w http.ResponseWriter, r *http.Request, key string) {
	f.mu.revision++
	deleted := 0
	if r.Method == http.MethodPut {
		body, _ := io.ReadAll(r.Body)
		f.mu.values[key] = string(body)
	}
	for k := range f.mu.values {
		if r.Method == http.MethodDelete && (k == key || r.URL.Query().Has("prefix") && strings.HasPrefix(k, key)) {
			delete(f.mu.values, k)
			deleted++
		}
	}
	_, _ = fmt.Fprintf(w, `{"key":%q,"revision":%d,"deleted":%d}`, key, f.mu.revision, deleted)
}

func fakePair(key, value string, revision int) string {
	return fmt.Sprintf(`{"key":%q,"value":%q,"flags":0,"revision":%d,"create_revision":2,"version":3,"modified_at":"2026-01-02T03:04:05Z","modified_hlc":"1.0"}`,
		key, value, revision)
}
