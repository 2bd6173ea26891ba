package state

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// The files of testdata/commands are the semantics of the commands as text: apply runs each input line as a
// command, all lines as one entry; the other directives show the state.
func TestCommands(t *testing.T) {
	datadriven.Walk(t, "testdata/commands", func(t *testing.T, path string) {
		m := testGenesis()
		var touched Touched
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "apply" {
				return show(t, m.View(), touched, d)
			}
			ms := int(m.View().Index())
			d.MaybeScanArgs(t, "at", &ms)
			var commands []Command
			for _, line := range strings.Split(d.Input, "\n") {
				commands = append(commands, parseCommand(t, line))
			}
			results, what := apply(t, m, stampAt(ms), commands...)
			touched = what
			var out strings.Builder
			for i, res := range results {
				showResult(t, &out, commands[i], res)
			}
			return out.String()
		})
	})
}

func showResult(t *testing.T, out *strings.Builder, c Command, res Result) {
	code := string(res.Code)
	if code == "" {
		code = "ok"
	}
	fmt.Fprintf(out, "%s revision=%d", code, res.Revision)
	if res.Message != "" {
		fmt.Fprintf(out, ": %s", res.Message)
	}
	switch c.(type) {
	case Txn:
		a, err := DecodeTxnAnswer(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, " succeeded=%v", a.Succeeded)
		for _, e := range a.Errors {
			fmt.Fprintf(out, "\n  op %d: %s: %s", e.Op, e.Code, e.Message)
		}
		for _, r := range a.Results {
			fmt.Fprintf(out, "\n  found=%v deleted=%d %s", r.Found, r.Deleted, showOpResult(r))
			for _, kv := range r.Tree {
				fmt.Fprintf(out, "\n    %s", showKV(kv))
			}
		}
	case NodeJoin:
		if res.Code == CodeOK {
			n, err := DecodeNode(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(out, "\n  %s", showNode(n))
		}
	case EventAppend:
		if res.Code == CodeOK {
			fmt.Fprintf(out, " at=%s", clock.Stamp(res.Number()))
		}
	case CoreAssign, DeletePrefix, Lock, Unlock, KVUndo, KVPurge:
		fmt.Fprintf(out, " number=%d", res.Number())
	}
	out.WriteString("\n")
}

func showKV(kv KV) string {
	if kv.Key == "" {
		return "-"
	}
	lock := ""
	if kv.LockIndex > 0 {
		lock = fmt.Sprintf(" lock=%d held=%q", kv.LockIndex, strings.TrimLeft(kv.Session, "0-"))
	}
	return fmt.Sprintf("%s=%q flags=%d create=%d mod=%d version=%d%s", kv.Key, kv.Value, kv.Flags,
		kv.CreateRevision, kv.ModRevision, kv.Version, lock)
}

func showNode(n Node) string {
	return fmt.Sprintf("%s key=%q epoch=%d role=%s effective=%s grant=%v zone=%q left=%v", n.Name,
		n.HostKey, n.BindingEpoch, n.Role, n.EffectiveRole(), n.CoreGrant, n.Zone, n.Left)
}

func show(t *testing.T, v *View, touched Touched, d *datadriven.TestData) string {
	var out strings.Builder
	arg := func(i int) string {
		if i < len(d.CmdArgs) {
			return d.CmdArgs[i].Key
		}
		return ""
	}
	switch d.Cmd {
	case "get":
		kv, ok := v.Get(arg(0))
		if !ok {
			return "none\n"
		}
		fmt.Fprintf(&out, "%s modified=%s\n", showKV(kv), kv.ModifiedAt)
	case "list":
		limit, _ := strconv.Atoi(arg(1))
		for _, kv := range v.List(arg(0), limit) {
			fmt.Fprintln(&out, showKV(kv))
		}
	case "keys":
		limit, _ := strconv.Atoi(arg(2))
		fmt.Fprintln(&out, strings.Join(v.Keys(arg(0), arg(1), limit), " "))
	case "revisions":
		for _, a := range d.CmdArgs {
			fmt.Fprintf(&out, "%s key=%d/%d prefix=%d/%d\n", a.Key, v.KeyRevision(a.Key),
				v.RowRevision(TableKV, a.Key), v.PrefixRevision(a.Key), v.PrefixChanged(a.Key))
		}
		fmt.Fprintf(&out, "kv=%d all=%d tombstones=%d\n", v.KVRevision(), v.Revision(), v.Rows(TableTombstone))
	case "history":
		showHistory(&out, v, arg(0))
	case "at":
		kv, found, since := v.GetAt(arg(0), parseNumber(t, arg(1)))
		fmt.Fprintf(&out, "%s found=%v since=%d\n", showKV(kv), found, since)
	case "changes":
		for _, c := range touched.Changes {
			fmt.Fprintf(&out, "%s %s %q deleted=%v revision=%d\n", c.Class, c.Table, c.Key, c.Row == nil, c.Revision)
		}
	default:
		showCluster(t, &out, v, d)
	}
	return out.String()
}

func showCluster(t *testing.T, out *strings.Builder, v *View, d *datadriven.TestData) {
	switch d.Cmd {
	case "nodes":
		for _, n := range v.Nodes() {
			at := ""
			if n.Address != "" && len(d.CmdArgs) == 1 {
				at = " address=" + n.Address
			}
			fmt.Fprintln(out, showNode(n)+at)
		}
	case "tokens":
		for _, k := range v.Tokens() {
			fmt.Fprintf(out, "%s uses=%d redeemed=%d revoked=%v\n", k.ID, k.Uses, len(k.Redeemed), k.Revoked)
		}
	case "core":
		for _, c := range v.Core() {
			fmt.Fprintf(out, "%x %s\n", c.RaftID, c.Node)
		}
		c := v.Cluster()
		fmt.Fprintf(out, "size=%d next=%d grants=%d version=%d\n", c.CoreSize, c.NextRaftID, c.AutoGrants, c.Version)
	case "seals":
		for _, n := range v.Nodes() {
			if s, ok := v.Seal(n.Name); ok {
				fmt.Fprintf(out, "%s %q\n", s.Node, s.Sealed)
			}
		}
	case "events":
		after := clock.Stamp(0)
		if len(d.CmdArgs) > 0 {
			after = stampAt(int(parseNumber(t, d.CmdArgs[0].Key)))
		}
		v.Events(after, func(e Event) bool {
			fmt.Fprintf(out, "%s/%d %s %q origin=%s\n", e.At, e.Place, e.Node, e.Message, e.Origin)
			return true
		})
	case "sessions":
		showSessions(out, v)
	case "catalog":
		showCatalog(out, v)
	case "bundle":
		fmt.Fprintf(out, "sequence=%d roots=%q\n", v.Bundle().Sequence, v.Bundle().Roots)
	default:
		t.Fatalf("%s: unknown directive %q", d.Pos, d.Cmd)
	}
}

func showSessions(out *strings.Builder, v *View) {
	for _, s := range v.Sessions() {
		fmt.Fprintf(out, "%d node=%s ttl=%s lease=%s %s delay=%s create=%d holds=%q\n", s.ID[15], s.Node, s.TTL, s.Lease,
			s.Behavior, s.LockDelay, s.CreateRevision, v.HeldKeys(s.ID))
	}
	fmt.Fprintf(out, "holds=%d delays=%d/%d revision=%d\n", v.Rows(TableHold), v.Rows(TableDelay), v.Rows(TableDelayEnd),
		v.TableRevision(TableSession))
	v.s.scan(TableNodeSessions, "", "", func(r *record) bool {
		if n := v.s.nodeSessions(r.key); n > 0 {
			fmt.Fprintf(out, "%s has %d\n", r.key, n)
		}
		return true
	})
}

// words splits a line into positional words and name=value options.
func words(line string) (pos []string, options map[string]string) {
	options = map[string]string{}
	for _, w := range strings.Fields(line) {
		if name, value, ok := strings.Cut(w, ":="); ok {
			options[name] = value
		} else {
			pos = append(pos, w)
		}
	}
	return append(pos, "", "", ""), options
}

func parseCommand(t *testing.T, line string) Command {
	w, o := words(line)
	cas := func() *uint64 {
		if o["cas"] == "" {
			return nil
		}
		return ptr(parseNumber(t, o["cas"]))
	}
	switch w[0] {
	case "put":
		return Put{Key: w[1], Value: []byte(w[2]), Flags: parseNumber(t, o["flags"]), Compare: cas()}
	case "delete":
		return Delete{Key: w[1], Compare: cas()}
	case "delete-prefix":
		return DeletePrefix{Prefix: w[1]}
	case "undo":
		return KVUndo{Key: w[1], Revision: parseNumber(t, w[2])}
	case "purge":
		return KVPurge{Key: w[1]}
	case "txn":
		return parseTxn(t, strings.TrimPrefix(line, "txn "))
	}
	return parseClusterCommand(t, w, o)
}

func parseClusterCommand(t *testing.T, w []string, o map[string]string) Command {
	switch w[0] {
	case "token":
		k := testToken(int(parseNumber(t, w[1])))
		k.Uses = max(1, int(parseNumber(t, o["uses"])))
		k.BoundNode, k.Replace, k.Core = o["node"], o["replace"], o["core"] == "true"
		if o["role"] != "" {
			k.Role = policy.Role(o["role"])
		}
		if o["expires"] != "" {
			k.Expires = stampAt(int(parseNumber(t, o["expires"])))
		}
		return TokenCreate{Token: k}
	case "revoke":
		return TokenRevoke{ID: fmt.Sprintf("%016x", parseNumber(t, w[1]))}
	case "join":
		j := testJoin(int(parseNumber(t, w[1])), w[2])
		if o["host"] != "" {
			j.HostKey, j.SealKey = hostKey(o["host"]), sealKey(o["host"])
		}
		if o["csr"] != "" {
			j.CSRKeyHash = [32]byte{byte(parseNumber(t, o["csr"]))}
		}
		return j
	case "role":
		return NodeSetRole{Node: w[1], Role: policy.Role(w[2])}
	case "left":
		return NodeSetLeft{Node: w[1], Left: w[2] == "true"}
	case "place":
		return NodePlace{Node: w[1], Zone: o["zone"], Address: o["address"]}
	case "grant":
		return CoreGrant{Node: w[1], Allow: w[2] == "true"}
	case "assign":
		return CoreAssign{Node: w[1]}
	case "retire":
		return CoreRetire{RaftID: parseNumber(t, w[1])}
	case "seal":
		return CoreSeal{Node: w[1], Sealed: []byte(w[2])}
	case "size":
		return SetCoreSize{Size: int(parseNumber(t, w[1]))}
	case "probe":
		return Probe{}
	case "version":
		return SetClusterVersion{Version: uint32(parseNumber(t, w[1]))}
	case "event":
		return EventAppend{ID: [16]byte{byte(parseNumber(t, w[1]))}, Node: w[2], Kind: EventNote, Message: w[3], Origin: stampAt(int(parseNumber(t, o["origin"])))}
	case "bundle":
		return SetBundle{Bundle{Sequence: parseNumber(t, w[1]), Roots: [][]byte{[]byte(w[2])}}}
	}
	return parseSessionCommand(t, w, o)
}

func parseSessionCommand(t *testing.T, w []string, o map[string]string) Command {
	switch w[0] {
	case "session":
		s := testSession(int(parseNumber(t, w[1])))
		if o["node"] != "" {
			s.Node = o["node"]
		}
		if o["behavior"] != "" {
			s.Behavior = Behavior(o["behavior"])
		}
		if o["checks"] != "" {
			s.NodeChecks = strings.Split(o["checks"], ",")
		}
		if o["service-checks"] != "" {
			s.ServiceChecks = strings.Split(o["service-checks"], ",")
		}
		if o["delay"] != "" {
			s.LockDelay = time.Duration(parseNumber(t, o["delay"])) * time.Millisecond
		}
		return SessionCreate{s}
	case "destroy":
		return SessionDestroy{ID: testSession(int(parseNumber(t, w[1]))).ID, Reason: ReasonAsked, Term: parseNumber(t, o["term"])}
	case "lock":
		return Lock{Key: w[1], Session: sessionText(t, w[2]), Value: []byte(w[3]), Flags: parseNumber(t, o["flags"])}
	case "unlock":
		return Unlock{Key: w[1], Session: sessionText(t, w[2]), Value: []byte(w[3])}
	}
	c, ok := parseCatalogCommand(t, w, o)
	if !ok {
		t.Fatalf("unknown command %q", w[0])
	}
	return c
}

// sessionText is the id of a test session by its number; other words are taken as they are.
func sessionText(t *testing.T, w string) string {
	if w == "" || w[0] < '0' || w[0] > '9' {
		return w
	}
	return testSession(int(parseNumber(t, w))).ID.String()
}

// parseTxn reads "if KEY TARGET RELATION WHAT ; then OP ; else OP", each part any number of times.
func parseTxn(t *testing.T, line string) Command {
	var txn Txn
	for _, part := range strings.Split(line, ";") {
		w, o := words(part)
		if w[0] == "if" {
			c := Compare{Key: w[1], Target: Target(w[2]), Relation: Relation(w[3])}
			if c.Target == TargetValue {
				c.Value = []byte(w[4])
			} else {
				c.Number = parseNumber(t, w[4])
			}
			txn.Compare = append(txn.Compare, c)
			continue
		}
		op := Op{Kind: OpKind(w[1]), Key: w[2], Value: []byte(w[3]), Session: sessionText(t, o["session"])}
		if o["cas"] != "" {
			op.Compare = ptr(parseNumber(t, o["cas"]))
		}
		if slices.Contains(catalogOps, op.Kind) {
			op = parseCatalogOp(t, op, w, o)
		}
		if w[0] == "then" {
			txn.Then = append(txn.Then, op)
		} else {
			txn.Else = append(txn.Else, op)
		}
	}
	return txn
}

func parseNumber(t *testing.T, s string) uint64 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
