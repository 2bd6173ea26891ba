package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// parseCatalogCommand reads "register NODE addr:= keep:= service:= name:= tags:= port:= check:= status:= on:=" and
// "deregister NODE service:= check:=".
func parseCatalogCommand(t *testing.T, w []string, o map[string]string) (Command, bool) {
	switch w[0] {
	case "register":
		c := CatalogRegister{Name: w[1], Keep: o["keep"] == "true"}
		if o["addr"] != "" {
			c.Node = parseNode(w[1], o)
		}
		if o["service"] != "" {
			c.Service = parseService(t, w[1], o["service"], o)
		}
		for _, id := range strings.FieldsFunc(o["check"], func(r rune) bool { return r == ',' }) {
			c.Checks = append(c.Checks, *parseCheck(w[1], id, o))
		}
		return c, true
	case "deregister":
		return CatalogDeregister{Node: w[1], Service: o["service"], Check: o["check"]}, true
	}
	return nil, false
}

func parseNode(name string, o map[string]string) *CatalogNode {
	n := &CatalogNode{Name: name, Address: o["addr"], ID: o["id"]}
	if key, value, ok := strings.Cut(o["meta"], "="); ok {
		n.Meta = []Pair{{key, value}}
	}
	return n
}

func parseService(t *testing.T, node, id string, o map[string]string) *CatalogService {
	s := &CatalogService{Node: node, ID: id, Name: o["name"], Port: int(parseNumber(t, o["port"]))}
	if s.Name == "" {
		s.Name = id
	}
	if o["tags"] != "" {
		s.Tags = strings.Split(o["tags"], ",")
	}
	return s
}

func parseCheck(node, id string, o map[string]string) *CatalogCheck {
	c := &CatalogCheck{Node: node, ID: id, Status: CheckStatus(o["status"]), ServiceID: o["on"], Output: o["output"]}
	if c.Status == "" {
		c.Status = CheckPassing
	}
	return c
}

// parseCatalogOp reads the words behind "then": KIND NODE ID and options.
func parseCatalogOp(t *testing.T, op Op, w []string, o map[string]string) Op {
	switch {
	case slices.Contains(nodeOps, op.Kind):
		op.Node = parseNode(w[2], o)
	case slices.Contains(serviceOps, op.Kind):
		op.Service = parseService(t, w[2], w[3], o)
	default:
		op.Check = parseCheck(w[2], w[3], o)
	}
	op.Key, op.Value = "", nil
	return op
}

func showOpResult(r OpResult) string {
	switch {
	case r.Node != nil:
		return showCatalogNode(*r.Node)
	case r.Service != nil:
		return showService(*r.Service)
	case r.Check != nil:
		return showCheck(*r.Check)
	}
	return showKV(r.KV)
}

func showCatalogNode(n CatalogNode) string {
	return fmt.Sprintf("node %s id=%q address=%s meta=%q owner=%q create=%d mod=%d agent=%v", n.Name, n.ID, n.Address, n.Meta,
		n.Owner, n.CreateRevision, n.ModRevision, n.Agent)
}

func showService(s CatalogService) string {
	return fmt.Sprintf("service %s/%s name=%s tags=%q port=%d owner=%q create=%d mod=%d", s.Node, s.ID, s.Name, s.Tags, s.Port,
		s.Owner, s.CreateRevision, s.ModRevision)
}

func showCheck(c CatalogCheck) string {
	of := ""
	if c.ServiceID != "" {
		of = fmt.Sprintf(" of %s name=%s tags=%q", c.ServiceID, c.ServiceName, c.ServiceTags)
	}
	return fmt.Sprintf("check %s/%s %s%s output=%q create=%d mod=%d", c.Node, c.ID, c.Status, of, c.Output, c.CreateRevision, c.ModRevision)
}

// showCatalog shows all of the catalog and the revision of each name.
func showCatalog(out *strings.Builder, v *View) {
	for _, n := range v.CatalogNodes() {
		fmt.Fprintln(out, showCatalogNode(n))
	}
	v.Services(func(s CatalogService) bool {
		fmt.Fprintln(out, showService(s))
		return true
	})
	v.Checks(func(c CatalogCheck) bool {
		fmt.Fprintln(out, showCheck(c))
		return true
	})
	v.s.scan(TableCatalogIndex, "", "", func(r *record) bool {
		count := v.s.trace(r.key)
		what, name := map[byte]string{'n': "node", 's': "service"}[r.key[0]], r.key[1:]
		fmt.Fprintf(out, "index of %s %s: revision=%d services=%d checks=%d\n", what, name, r.revision, count.services, count.checks)
		return true
	})
}
