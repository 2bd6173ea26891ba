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
	coreShape     = `{"leader","term","commit_index","applied_index","size","margin","read_only","voters":[{"name","raft_id","healthy"}],"learners":[...],"held":[{"name","until"}],"epoch","epoch_id"}`
	memberShape   = `[{"name","spiffe_id","state","address","zone","core"}]`
	pairShape     = `{"key","value","flags","revision","create_revision","version","modified_at","modified_hlc"}`
	sessionShape  = `{"id","name","node","ttl","lease","behavior","lock_delay","created_at","created_hlc","fencing_token"}`
	checkShape    = `{"ok","checks":[{"id","status":"ok|warn|fail","message","hint","runbook"}]}`
	survivorShape = `{"node","cluster_id","trust_domain","epoch","epoch_id","raft_id","last_term","last_index","commit_index","chain","voters":[...],"snapshot_index","in_doubt"}`
	backupShape   = `{"file","ok","problem","digest","expected","bytes","content_bytes","manifest":{"cluster_id","trust_domain","epoch","epoch_id","index","term","revision","digest","taken_at","hlc","node","version","cluster_version","rows":{...}}}`
	scrubShape    = `{"errors","disagree","segments","entries","snapshots","bytes","healed","problems":[{"file","offset","message"}]}`
)

// jsonShapes has one line for each command: the form of its JSON, or, not beginning with a bracket, what
// it prints instead. docs/commands.md and --help show it; a command without a line fails a test.
var jsonShapes = map[string]string{
	"init":         `{"cluster_id","trust_domain","name","spiffe_id","root_hash","data_dir"}`,
	"token create": `{"id","token","expires_at","join_command"}`,
	"token list":   `[{"id","expires_at","uses_left","node","role","core","replace","created_at","revoked"}]`,
	"token revoke": `{"id","revoked":true}`,

	"agent":      "none: it runs until it is stopped",
	"agent role": `{"node","role"}`,
	"lab":        "none: it runs until it is stopped; $PARLEY_LAB_DIR/lab.json is a list of agents",

	"status":     `{"name","cluster_id","trust_domain","version","ready","safe_mode","core":{...},"svid":{"spiffe_id","not_after"},"digest":{"revision","public","all"}}`,
	"members":    memberShape,
	"core":       coreShape,
	"core allow": `{"node","allow","role","stays"}`,
	"core size":  `{"size"}, and "dry_run" of a dry run`,
	"core hold":  `{"node","held","until"}, and "dry_run" of a dry run`,
	"leave":      `{"node","core":"leader|voter|learner|none","heir","voters","left"}, and "dry_run" of a dry run`,

	"kv get":    pairShape,
	"kv list":   "[" + pairShape + "]",
	"kv put":    `{"key","revision"}`,
	"kv delete": `{"key","revision","deleted","dry_run"}`,
	"kv watch":  `{"type":"put","key","revision","pair":{...}} or {"type":"delete","key","revision"}, one line an event`,

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
