package api

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/parley-mesh/parley/state"
)

var receipt = regexp.MustCompile(`^node=a1;term=\d+;index=\d+;hlc=\d+\.\d+$`)

// The JSON of every endpoint is contract. The request id differs each time and is checked apart.
func TestJSONShapes(t *testing.T) {
	c := newFake(t, 1, 1)
	h := c.agents["a1"].service.Handler(Loopback)
	core := `{"leader":"a1","term":1,"commit_index":1,"applied_index":1,"size":3,"margin":0,"read_only":false,"reads":"","voters":[{"name":"a1","raft_id":"1","healthy":true}],"learners":[],"held":[],"epoch":0,"epoch_id":""}`
	bin := `"value_base64":"/wA=","flags":0,"revision":4,"create_revision":4,"version":1,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.4"}`
	text := `"value":"v\u003c","flags":7,"revision":2,"create_revision":2,"version":1,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.2"}`
	for _, test := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"PUT", "/parley/v1/kv/k?cas=0&flags=7", "v<", 200, `{"key":"k","revision":2}`},
		{"PUT", "/parley/v1/kv/empty", "", 200, `{"key":"empty","revision":3}`},
		{"PUT", "/parley/v1/kv/bin", "\xff\x00", 200, `{"key":"bin","revision":4}`},
		{"GET", "/parley/v1/kv/k", "", 200, `{"key":"k",` + text},
		{"GET", "/parley/v1/kv/bin?stale=", "", 200, `{"key":"bin",` + bin},
		{"GET", "/parley/v1/kv?prefix=1&keys", "", 200, `["bin","empty","k"]`},
		{"GET", "/parley/v1/kv/b?prefix=1", "", 200, `[{"key":"bin",` + bin + `]`},
		{"GET", "/parley/v1/kv/none?prefix=1", "", 200, `[]`},
		{"GET", "/parley/v1/kv/none", "", 404, `{"error":{"code":"not_found","message":"no key \"none\"","hint":"list what exists: parley kv list PREFIX","leader":null,"request_id":"ID","exit_code":1,"retryable":false}}`},
		{"POST", "/parley/v1/txn", `{"compare":[{"key":"k","number":2},{"key":"bin","target":"value","value_base64":"/wA="},{"key":"k","target":"version","relation":"\u003c","number":2}],"then":[{"op":"put","key":"t","value":"1"},{"op":"get","key":"t"},{"op":"get","key":"none"},{"op":"delete","key":"empty"}]}`, 200,
			`{"succeeded":true,"revision":5,"results":[{"op":"put","key":"t","pair":PAIR,"deleted":0},{"op":"get","key":"t","pair":PAIR,"deleted":0},{"op":"get","key":"none","deleted":0},{"op":"delete","key":"empty","deleted":1}]}`},
		{"POST", "/parley/v1/txn", `{"compare":[{"key":"k","number":9}],"then":[{"op":"delete","key":"k"}],"else":[{"op":"get","key":"none"}]}`, 200,
			`{"succeeded":false,"revision":5,"results":[{"op":"get","key":"none","deleted":0}]}`},
		{"DELETE", "/parley/v1/kv/t", "", 200, `{"key":"t","revision":6,"deleted":1}`},
		{"DELETE", "/parley/v1/kv/bi?prefix=1", "", 200, `{"key":"bi","revision":7,"deleted":1}`},
		{"POST", "/parley/v1/token", `{"ttl":"1h","uses":2,"role":"local"}`, 200,
			`{"id":"00112233445566aa","token":"parley1-secret","expires_at":"2023-11-15T02:52:57.216Z","join_command":"parley agent --token-file FILE"}`},
		{"GET", "/parley/v1/tokens", "", 200,
			`[{"id":"00112233445566aa","expires_at":"2023-11-15T02:52:57.216Z","uses_left":2,"node":"","role":"local","core":false,"replace":"","created_at":"2023-11-14T22:13:20Z","revoked":false}]`},
		{"DELETE", "/parley/v1/token/00112233445566aa", "", 200, `{"id":"00112233445566aa","revoked":true}`},
		{"POST", "/parley/v1/core/allow", `{"node":"a1"}`, 200, `{"node":"a1","allow":true}`},
		{"POST", "/parley/v1/core/size", `{"size":5}`, 200, `{"size":5}`},
		{"GET", "/parley/v1/leave", "", 200, `{"node":"a1","core":"voter","heir":"a4","voters":3,"left":false}`},
		{"POST", "/parley/v1/leave", "", 200, `{"node":"a1","core":"voter","heir":"a4","voters":3,"left":true}`},
		{"POST", "/parley/v1/core/hold", `{"node":"a1","release":true}`, 200, `{"node":"a1"}`},
		{"POST", "/parley/v1/agent/role", `{"node":"a1","role":"local"}`, 200, `{"node":"a1","role":"local"}`},
		{"POST", "/parley/v1/agent/trust", `{"node":"a1"}`, 200, `{"node":"a1"}`},
		{"GET", "/parley/v1/members", "", 200, `[{"name":"a1","spiffe_id":"spiffe://example.org/parley/agent/a1","state":"alive","address":"127.0.0.1:8310","zone":"z1","core":"leader","copied":false}]`},
		{"GET", "/parley/v1/core", "", 200, core},
		{"GET", "/parley/v1/invariants", "", 200, `{"count":1,"invariants":[{"id":"one-leader-a-term","what":"A term has one leader.","holds":false,"violations":1,"detail":"1 and 2"}]}`},
		{"GET", "/parley/v1/status", "", 200, `{"name":"a1","cluster_id":"00112233445566778899aabbccddeeff","trust_domain":"example.org","version":"0.1.0","ready":true,"safe_mode":0,"core":` + core + `,"svid":{"spiffe_id":"spiffe://example.org/parley/agent/a1","not_after":"2023-11-14T23:13:20Z"}}`},
		{"GET", "/parley/v1/health", "", 200, `{"ready":true,"capabilities":[{"name":"writes","ok":true},{"name":"view","ok":false,"detail":"at index 0"}]}`},
		{"GET", "/parley/v1/slo", "", 200, `[{"name":"config-write","target":0.999,"window":"30d","sli":null,"budget_remaining_ratio":null,"burn":{"1h":0,"5m":null},"firing":[],"good":0,"bad":0}]`},
		{"GET", "/parley/v1/alerts", "", 200, `[{"id":"quorum-margin","state":"firing","severity":"page","value":0,"threshold":0,"since":"2023-11-14T22:13:20Z","summary":"margin","runbook":"server-down"}]`},
		{"GET", "/parley/v1/health/explain", "", 200, `{"healthy":false,"causes":[{"rank":1,"cause":"core-member-dead","subject":"a2","severity":"page","evidence":["gossip holds voter a2 dead since 22:13:20Z","0 of 3 voters may still fail","alert quorum-margin is firing since 22:13:20Z"],"alert":"quorum-margin","runbook":"server-down","command":"parley runbook run server-down --var node=a2"}]}`},
		{"GET", "/metrics", "", 200, "metrics"},
		{"POST", "/parley/v1/events", `{"message":"m"}`, 200, `{"hlc":"1700000000000.16","time":"2023-11-14T22:13:20Z","node":"a1"}`},
		{"GET", "/parley/v1/events", "", 200,
			`[{"hlc":"1700000000000.16","time":"2023-11-14T22:13:20Z","node":"a1","kind":"note","subject":"","message":"m","pending":false,"reported_at":"2023-11-14T22:13:20Z"}]`},
		{"GET", "/parley/v1/digest/compare", "", 200, `{"groups":1,"index":7,"members":[{"name":"a1","digest":"00"}],"minority":[],"unreachable":[],"behind":[],"absent":[]}`},
		{"GET", "/parley/v1/net/matrix", "", 200,
			`{"agents":["a1","a2"],"links":[{"from":"a1","to":"a2","udp":"fallback","tcp":"ok","rtt_ms":0.5}],"unreachable":0,"udp_fallback":1,"asymmetric":0,"unknown":0,"relayed":0}`},
		{"GET", "/parley/v1/node/a1", "", 200,
			`{"name":"a1","state":"alive","incarnation":3,"starts_10m":1,"crash_starts_10m":0,"safe_mode":0,"core":"leader","address":"127.0.0.1:8310","zone":"z1","version":"0.1.0","reachable":true}`},
		{"GET", "/parley/v1/node/a9", "", 404, `{"error":{"code":"not_found","message":"there is no agent \"a9\"","hint":"list the agents: parley members","leader":null,"request_id":"ID","exit_code":1,"retryable":false}}`},
		{"GET", "/parley/v1/check", "", 200, `{"ok":true,"checks":[{"id":"leader","status":"ok","message":"the core has a leader","hint":"","runbook":""}]}`},
		{"GET", "/parley/v1/storage/scrub", "", 200, `{"errors":0,"disagree":0,"segments":1,"entries":2,"snapshots":0,"bytes":33554432,"healed":0,"problems":[]}`},
		{"GET", "/parley/v1/digest/diff?node=a2&reference=a1", "", 200, `{"reference":"a1","index":7,"members":["a2"],"differences":[{"member":"a2","table":"kv","key":"a2a1","kind":"missing","revision":0,"reference_revision":5,"reference_hash":"00"}],"more":false,"unanswered":[]}`},
		{"GET", "/parley/v1/debug/recordings", "", 200, `[{"name":"invariant-x.rec","bytes":9,"at":"2026-01-02T03:04:05Z"}]`},
		{"DELETE", "/parley/v1/debug/recordings", "", 200, `[]`},
		{"POST", "/parley/v1/digest/accept", `{"node":"a2"}`, 200, `{"node":"a2","index":7}`},
		{"GET", "/parley/v1/storage/scrub?mib_per_second=2", "", 200, `{"errors":0,"disagree":0,"segments":1,"entries":2,"snapshots":0,"bytes":2097152,"healed":0,"problems":[]}`},
		{"GET", "/livez", "", 200, "ok"}, {"GET", "/readyz", "", 200, "ready"},
		{"GET", "/readyz?verbose", "", 200, "[+]writes\n[-]view at index 0\nready"},
	} {
		w := do(h, test.method, test.target, test.body)
		id := w.Header().Get(headerRequestID)
		pair := `{"key":"t","value":"1","flags":0,"revision":5,"create_revision":5,"version":1,"modified_at":"2023-11-14T22:13:20Z","modified_hlc":"1700000000000.5"}`
		want := strings.ReplaceAll(strings.ReplaceAll(test.want, `"ID"`, `"`+id+`"`), "PAIR", pair)
		if got := strings.TrimSpace(w.Body.String()); got != want || w.Code != test.status {
			t.Errorf("%s %s: %d\n got %s\nwant %s", test.method, test.target, w.Code, got, want)
		}
		if got := w.Header().Get(headerReceipt); !receipt.MatchString(got) || id == "" {
			t.Errorf("%s %s: receipt %q, request id %q", test.method, test.target, got, id)
		}
	}
}

// A write's receipt is its place in the log, and a read's revision is what the next blocking read waits from.
func TestReceiptAndRevision(t *testing.T) {
	c := newFake(t, 2, 2)
	h := c.agents["a2"].service.Handler(Loopback)
	w := do(h, "PUT", "/parley/v1/kv/k", "v")
	if got, want := w.Header().Get(headerReceipt), "node=a1;term=1;index=2;hlc=1700000000000.2"; got != want {
		t.Errorf("write: receipt %q, want %q", got, want)
	}
	c.put("other", "v")
	w = do(h, "GET", "/parley/v1/kv/k", "")
	if got := w.Header().Get(headerRevision); got != "2" {
		t.Errorf("read: revision %q, want the key's own 2", got)
	}
	if w = do(h, "GET", "/parley/v1/kv/none", ""); w.Code != 404 || w.Header().Get(headerRevision) == "" {
		t.Errorf("missing key: %d, revision %q", w.Code, w.Header().Get(headerRevision))
	}
}

// A leader that is known is named, so that a person knows where to look; without one the field is null.
func TestErrorNamesTheLeader(t *testing.T) {
	c := newFake(t, 2, 2)
	c.agents["a1"].propose = nil
	service := c.agents["a2"].service
	for range maxWatches {
		service.watches.acquire(KindAnonymous)
	}
	w := do(service.Handler(Loopback), "GET", "/parley/v1/kv/k?index=1&wait=1s", "")
	if w.Code != 429 || !strings.Contains(w.Body.String(), `"leader":"a1"`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	c.setLeader("")
	w = do(service.Handler(Loopback), "PUT", "/parley/v1/kv/k", "v")
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"code":"no_leader"`) || !strings.Contains(w.Body.String(), `"leader":null`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// What makes no sense is refused before it changes anything, a misspelled parameter above all.
func TestNativeRefusals(t *testing.T) {
	c := newFake(t, 1, 1)
	c.put("k", "v")
	h := c.agents["a1"].service.Handler(Loopback)
	before := c.machine.View().Revision()
	for _, test := range []struct {
		method, target, body string
		status               int
		code                 string
	}{
		{"PUT", "/parley/v1/kv/k?csa=1", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k?cas=x", "x", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/k?cas=-1", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k?flags=x", "x", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k?cas=0", "x", 409, CodeConflict},
		{"PUT", "/parley/v1/kv/k?cas=99", "x", 409, CodeConflict}, {"DELETE", "/parley/v1/kv/none", "", 404, CodeNotFound},
		{"DELETE", "/parley/v1/kv/", "", 400, CodeInvalid}, {"DELETE", "/parley/v1/kv/k?cas=1&prefix=1", "", 400, CodeInvalid},
		{"DELETE", "/parley/v1/kv/k?recurse", "", 400, CodeInvalid}, {"DELETE", "/parley/v1/kv/k?cas=99", "", 409, CodeConflict},
		{"GET", "/parley/v1/kv/k?wait=-1s", "", 400, CodeInvalid}, {"GET", "/parley/v1/kv/k?index=x", "", 400, CodeInvalid},
		{"GET", "/parley/v1/kv", "", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/k?cas=%zz", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k?cas=0;b", "x", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/k?cas=0%", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k?cas%=0", "x", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/k?cas=2&cas=9", "x", 400, CodeInvalid}, {"DELETE", "/parley/v1/kv/k?cas=%zz", "", 400, CodeInvalid},
		{"DELETE", "/parley/v1/kv/k?cas=2&cas=2", "", 400, CodeInvalid}, {"GET", "/parley/v1/kv/k?stale&stale", "", 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{`, 400, CodeInvalid}, {"POST", "/parley/v1/txn", `{} {}`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{}}`, 400, CodeInvalid}, {"POST", "/parley/v1/txn", `{}]`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `null`, 400, CodeInvalid}, {"POST", "/parley/v1/txn", ` null`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", "{\"then\":[{\"op\":\"put\",\"key\":\"k\xff\"}]}", 400, CodeInvalid},
		{"PUT", "/parley/v1/kv/k%ff", "x", 400, CodeInvalid}, {"PUT", "/parley/v1/kv/k%fe?session=" + knownSession, "x", 400, CodeInvalid},
		{"GET", "/parley/v1/kv/k%ff", "", 400, CodeInvalid}, {"GET", "/parley/v1/kv/k%ff?prefix", "", 400, CodeInvalid},
		{"DELETE", "/parley/v1/kv/k%ff", "", 400, CodeInvalid}, {"DELETE", "/parley/v1/kv/k%ff?prefix", "", 400, CodeInvalid},
		{"POST", "/parley/v1/token", `null`, 400, CodeInvalid}, {"POST", "/parley/v1/session", `null`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{"when":[]}`, 400, CodeInvalid}, {"POST", "/parley/v1/txn", ``, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{"then":[{"op":"explode","key":"k"}]}`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{"then":[{"op":"put","key":"k","value":"x","value_base64":"eA=="}]}`, 400, CodeInvalid},
		{"POST", "/parley/v1/txn", `{"then":[{"op":"put","key":"k","value":"x","cas":99}]}`, 409, CodeConflict},
		{"POST", "/parley/v1/token", `{"ttl":"1"}`, 400, CodeInvalid}, {"POST", "/parley/v1/token", `{"ttl":"9999h"}`, 400, CodeInvalid},
		{"POST", "/parley/v1/token", `{"role":"local","core":true}`, 400, CodeInvalid},
		{"POST", "/parley/v1/token", `{"role":"root"}`, 400, CodeInvalid}, {"POST", "/parley/v1/token", `{"uses":-1}`, 400, CodeInvalid},
		{"POST", "/parley/v1/token", fmt.Sprintf(`{"uses":%d}`, state.MaxTokenUses+1), 400, CodeInvalid},
		{"DELETE", "/parley/v1/token/zz", "", 400, CodeInvalid}, {"DELETE", "/parley/v1/token/0011223344556677", "", 404, CodeNotFound},
		{"POST", "/parley/v1/core/size", `{"size":2}`, 400, CodeInvalid}, {"POST", "/parley/v1/core/allow", `{"node":"zz"}`, 404, CodeNotFound},
		{"POST", "/parley/v1/agent/role", `{"node":"a1","role":"root"}`, 400, CodeInvalid},
		{"POST", "/parley/v1/core/hold", `{"node":"zz"}`, 404, CodeNotFound}, {"POST", "/parley/v1/core/hold", `{"node":"a1","for":"169h"}`, 400, CodeInvalid},
		{"POST", "/parley/v1/core/hold", `{"node":"a1","for":"1ms"}`, 400, CodeInvalid}, {"POST", "/parley/v1/core/hold", `{"node":"a1","for":"-1h"}`, 400, CodeInvalid},
		{"POST", "/parley/v1/core/hold", `{"node":"a1","for":"1h","release":true}`, 400, CodeInvalid},
		{"GET", "/parley/v1/check?pre", "", 400, CodeInvalid}, {"GET", "/parley/v1/storage/scrub?rate=1", "", 400, CodeInvalid},
		{"GET", "/parley/v1/storage/scrub?mib_per_second=0", "", 400, CodeInvalid},
		{"POST", "/parley/v1/digest/accept", `{}`, 400, CodeInvalid},
		{"GET", "/parley/v1/storage/scrub?mib_per_second=10001", "", 400, CodeInvalid},
	} {
		w := do(h, test.method, test.target, test.body)
		if w.Code != test.status || !strings.Contains(w.Body.String(), `"code":"`+test.code+`"`) {
			t.Errorf("%s %s %s: %d %s, want %d %s", test.method, test.target, test.body, w.Code, w.Body, test.status, test.code)
		}
	}
	if got := c.machine.View().Revision(); got != before {
		t.Errorf("a refused request moved the revision from %d to %d", before, got)
	}
}

// Every native endpoint refuses a parameter that it does not take, one that cannot be parsed, and one that is there
// twice: what is left out without a word may have been a condition. The three that supervisors and scrapers ask let
// unknown ones pass: these send some of their own.
func TestParametersAreKnown(t *testing.T) {
	c := newFake(t, 1, 1)
	c.furnish(t)
	h := c.agents["a1"].service.Handler(Loopback)
	before := c.machine.View().Revision()
	for _, call := range calls {
		path := strings.SplitN(call.target, "?", 2)[0]
		unknown := []string{"x=1", "=1"}
		if slices.Contains([]string{"/livez", "/readyz", "/metrics"}, path) {
			if w := do(h, call.method, path+"?x=1", ""); w.Code != http.StatusOK {
				t.Errorf("%s %s?x=1: %d %s", call.method, path, w.Code, w.Body)
			}
			unknown = nil
		}
		for _, query := range append(unknown, "cas=%zz", "prefix;keys", "wait=1s&wait=1s") {
			w := do(h, call.method, path+"?"+query, call.body)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"code":"invalid"`) {
				t.Errorf("%s %s?%s: %d %s", call.method, path, query, w.Code, w.Body)
			}
		}
	}
	if got := c.machine.View().Revision(); got != before {
		t.Errorf("a refused request moved the revision from %d to %d", before, got)
	}
}
