package command

import (
	"strings"

	"github.com/spf13/cobra"
)

//go:generate go test -count=1 -run TestCommandsPage -update .

// jsonShape is the annotation under which a command says what its JSON is.
const jsonShape = "json-shape"

// groupMark is the annotation of commands that only hold others.
const groupMark = "group"

const (
	coreShape      = `{"leader","term","commit_index","applied_index","size","margin","read_only","reads","voters":[{"name","raft_id","healthy"}],"learners":[...],"held":[{"name","until"}],"epoch","epoch_id"}`
	memberShape    = `[{"name","spiffe_id","state","address","zone","core","copied"}]`
	pairShape      = `{"key","value","flags","revision","create_revision","version","modified_at","modified_hlc"}`
	sessionShape   = `{"id","name","node","ttl","lease","behavior","lock_delay","created_at","created_hlc","fencing_token"}`
	entryShape     = `{"name","spiffe_id","selectors":[...],"nodes":[...],"service","federates_with":[...],"ttl_s","jwt_ttl_s","hint","owner","created_at","changed_at","changed_by","generation"}`
	admissionShape = `{"name","kind":"x509|ssh","authorities":[...],"names","suffix","role","core","created_at","created_by"}`
	denyShape      = `{"kind":"id|serial|host","subject","until","at","by","reason"}`
	operatorShape  = `{"name","spiffe_id","role","key_sha256","created_at","created_by","generation"}`
	checkShape     = `{"ok","checks":[{"id","status":"ok|warn|fail","message","hint","runbook"}]}`
	survivorShape  = `{"node","cluster_id","trust_domain","epoch","epoch_id","raft_id","last_term","last_index","commit_index","chain","voters":[...],"snapshot_index","in_doubt"}`
	backupShape    = `{"file","ok","problem","digest","expected","bytes","content_bytes","manifest":{"cluster_id","trust_domain","epoch","epoch_id","index","term","revision","digest","taken_at","hlc","node","version","cluster_version","rows":{...}}}`
	scrubShape     = `{"errors","disagree","segments","entries","snapshots","bytes","healed","problems":[{"file","offset","message"}]}`
)

// jsonShapes has one line for each command: the form of its JSON, or, not beginning with a bracket, what
// it prints instead. docs/commands.md and --help show it; a command without a line fails a test.
var jsonShapes = map[string]string{
	"init":         `{"cluster_id","trust_domain","name","spiffe_id","root_hash","data_dir","recovery","recovery_key"}`,
	"token create": `{"id","token","expires_at","join_command"}`,
	"token list":   `[{"id","expires_at","uses_left","node","role","core","replace","created_at","revoked"}]`,
	"token revoke": `{"id","revoked":true}`,

	"admission add":    admissionShape,
	"admission list":   "[" + admissionShape + "]",
	"admission remove": `{"name","removed"}, and "dry_run" of a dry run`,

	"identity show":          `{"outage_in_s","first":{...},"certificates":[{"spiffe_id","link":"leaf|issuer|authority|root","of":"agent|workload|core","hint","serial","not_after","remaining_ratio"}]}`,
	"identity explain":       `{"pid","selectors":[...],"entries":[` + entryShape + `],"nearest":[{"differences":[...]} and the fields of an entry]}`,
	"identity fetch x509":    `{"svids":[{"spiffe_id","hint","serial","not_before","not_after"}],"trust_domains":[...],"written":[...]}, one line an update with --watch`,
	"identity fetch jwt":     `{"spiffe_id","hint","audience":[...],"expires_at","token" without --write,"written":[...]}, one line an update with --watch`,
	"identity fetch bundles": `{"trust_domains":[{"name","roots","jwt_keys"}],"written":[...]}, one line an update with --watch`,

	"identity entry add":    entryShape,
	"identity entry list":   "[" + entryShape + "]",
	"identity entry show":   entryShape,
	"identity entry remove": `{"name","removed"}, and "dry_run" of a dry run`,

	"operator add":    `{"name","spiffe_id","role","not_after","dir"}; of a dry run {"name","role","dir","exists","dry_run"}`,
	"operator list":   "[" + operatorShape + "]",
	"operator show":   operatorShape,
	"operator renew":  `{"name","spiffe_id","role","not_after","dir"}`,
	"ca status":       `{"roots":[{"hash","subject","role":"signing|next|old","not_before","not_after"}],"bundle_sequence","rotates_at","wanted","force","compromised","measured","step","reason","waiting_for":[..],"token_keys":[{"id","node","published_at","not_after","waiting_for":[..]}]}, and of an authority that another one has signed "authority" and "next_authority": {"hash","subject","signed_by","not_before","not_after"}`,
	"ca csr":          `{"node","request"}`,
	"ca reseal":       `{"sealed"}`,
	"ca token-key":    `{"node","id","without":[..]}, and "dry_run" of a dry run`,
	"ca external":     `{"hash","subject","signed_by","not_before","not_after"}; with --leave {"asked"}`,
	"ca rotate":       `{"force","compromised","asked","waiting_for":[..]}, and "dry_run" of a dry run`,
	"evict":           `{"node","core":"voter|learner|none","root_replaced","evicted"}, and "dry_run" of a dry run`,
	"deny add":        denyShape + `; of a dry run {"what","locks_out","dry_run"}`,
	"deny list":       "[" + denyShape + "]",
	"deny remove":     `{"name","removed"}, and "dry_run" of a dry run`,
	"ca timeline":     `{"events":[..],"rotates_at"}`,
	"operator remove": `{"name","removed"}, and "dry_run" of a dry run`,

	"agent":       "none: it runs until it is stopped",
	"agent role":  `{"node","role"}`,
	"agent trust": `{"node","trusted"}, and "dry_run" of a dry run`,
	"lab":         "none: it runs until it is stopped; $PARLEY_LAB_DIR/lab.json is a list of agents",

	"status":     `{"name","cluster_id","trust_domain","version","ready","safe_mode","core":{...},"svid":{"spiffe_id","not_after"},"digest":{"revision","public","all"}}`,
	"members":    memberShape,
	"core":       coreShape,
	"core allow": `{"node","allow","role","stays"}`,
	"core size":  `{"size"}, and "dry_run" of a dry run`,
	"core hold":  `{"node","held","until"}, and "dry_run" of a dry run`,
	"leave":      `{"node","core":"leader|voter|learner|none","heir","voters","left"}, and "dry_run" of a dry run`,

	"kv get":     pairShape,
	"kv list":    "[" + pairShape + "]",
	"kv put":     `{"key","revision"}`,
	"kv delete":  `{"key","revision","deleted","dry_run"}`,
	"kv history": `{"key","since","versions":[` + pairShape + ` and "deleted"]}`,
	"kv undo":    `{"key","revision","undone","restored","deleted","dry_run"}`,
	"kv purge":   `{"key","purged","dry_run"}`,
	"kv txn":     `{"succeeded","revision","results":[{"op","key","pair","pairs","deleted"}]}`,
	"kv watch":   `{"type":"put","key","revision","pair":{...}} or {"type":"delete","key","revision"}, one line an event`,

	"session create":  sessionShape,
	"session list":    "[" + sessionShape + "]",
	"session renew":   sessionShape,
	"session destroy": `{"id","revision"}`,

	"health":           `{"ready","capabilities":[{"name","ok","detail"}]}`,
	"health explain":   `{"healthy","causes":[{"rank","cause","subject","severity","evidence":[...],"alert","runbook","command"}]}`,
	"alerts":           `[{"id","state":"ok|pending|firing|no_data","severity","value","threshold","since","summary","runbook"}]`,
	"slo":              `[{"name","target","window","sli","budget_remaining_ratio","burn":{"5m","30m","1h","2h","6h","1d","3d"},"firing":[...],"good","bad"}]`,
	"events":           `[{"hlc","time","node","kind","subject","message","pending","reported_at"}], oldest first`,
	"events add":       `{"hlc","time","node"}`,
	"digest compare":   `{"groups","index","members":[{"name","digest"}],"minority":[...],"unreachable":[...],"behind":[...],"absent":[...],"differences":[{"member","table","key"}]}`,
	"digest diff":      `{"reference","index","members":[...],"differences":[{"member","table","key","kind":"differs|missing|extra","revision","reference_revision","hash","reference_hash"}],"more","unanswered":[...]}`,
	"digest accept":    `{"node","index","dry_run","given_up":[...]}`,
	"invariant list":   `{"count","invariants":[{"id","what","holds","violations","detail"}]}`,
	"debug bundle":     `{"file","bytes","node","format","at","version","build","binary_sha256","go","files":[{"name","bytes","sha256"}],"missing":[{"name","reason"}]}`,
	"debug recordings": `[{"name","bytes","at"}]`,
	"debug forget":     `[{"name","bytes","at"}]`,
	"replay":           `{"events","violations","first":{"event","invariant","detail"},"diverged","panics","recordings":[{"name","reason","outcome","events","turns","violations","first","panic","diverged"}]}`,
	"net matrix":       `{"agents":[...],"links":[{"from","to","udp","tcp","rtt_ms"}],"unreachable","udp_fallback","asymmetric","unknown"}`,
	"node status":      `{"name","state","incarnation","starts_10m","crash_starts_10m","safe_mode","core","address","zone","version","reachable"}`,
	"apply status":     `{"members":[{"name","commit","applied","lag","withheld","stopped_at":{"index","command","cause","signature"}}],"unreachable":[...],"cases":[{"index","command","stopped":[...],"answers":{...},"verdict"}],"quarantined":[{"index","command","kind","hash","at"}]}`,
	"apply quarantine": `{"index","command","dry_run"}`,

	"runbook list": `[{"id","title","failure_mode","alerts","severity","last_drill"}]`,
	"runbook show": `{"schema","id","title","failure_mode","fail_types","layers","alerts","severity","data_at_risk","owner","requires","automatic","never","budget","drill","related","last_drill","inputs","sections","steps"}`,
	"runbook run":  `{"id","result":"pass|fail|escalate|unverified","not_this","dry_run","reason","notes","steps":[{"id","kind","command","exit","ok","branch","output","error"}]}`,

	"check":         checkShape,
	"storage scrub": scrubShape, "storage accept-tail": `{"accepted"}`,

	"snapshot save":    backupShape,
	"snapshot verify":  backupShape,
	"snapshot inspect": backupShape[:len(backupShape)-1] + `,"nodes":[{"name","zone","role","left","restore"}],"core":[...],"roots":[...],"keys","kv_bytes","sessions","services":[...]}`,
	"snapshot restore": `{"file","data_dir","node","trust_domain","cluster_id","taken_at","backup_index","index","epoch","raft_id","keys","sessions_ended","nodes_kept":[...],"other_members":[...],"aside","last_index_here","dry_run","digest"}`,

	"disaster inspect": survivorShape,
	"disaster recover": `{"survivor":` + survivorShape + `,"peers":[` + survivorShape + `],"data_dir","node","trust_domain","cluster_id","index","epoch","raft_id","keys","unproven_from","unproven_to","missing_logs":[...],"may_be_lost","seen_index","other_members":[...],"aside","dry_run","digest"}`,

	"config default": "none: the example file",
	"config check":   `{"ok":true,"file"}`,
	"version":        `{"version","commit","modified","go","platform"}`,
	"completion":     "none: a script for the shell",
}

// document gives every command its line of jsonShapes, and has --help show it.
func document(root *cobra.Command) {
	root.SetUsageTemplate(root.UsageTemplate() + "{{with index .Annotations \"" + jsonShape + "\"}}\nJSON (-o json):\n  {{.}}\n{{end}}")
	for path, shape := range jsonShapes {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 || !isJSON(shape) {
			continue // a test says when the command is not there
		}
		if cmd.Annotations == nil {
			cmd.Annotations = map[string]string{}
		}
		cmd.Annotations[jsonShape] = shape
	}
}

func isJSON(shape string) bool { return strings.HasPrefix(shape, "{") || strings.HasPrefix(shape, "[") }
