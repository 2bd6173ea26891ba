package state

import "strings"

// CatalogNode returns the node of that name if it is one without an agent.
func (v *View) CatalogNode(name string) (CatalogNode, bool) { return v.s.catalogNode(name) }

// CatalogNodes returns the nodes without an agent, by name.
func (v *View) CatalogNodes() []CatalogNode {
	return rows(v.s, TableCatalogNode, catalogNodeOf)
}

// Service returns one instance.
func (v *View) Service(node, id string) (CatalogService, bool) { return v.s.service(node, id) }

// ServicesOf returns the instances on a node, by id.
func (v *View) ServicesOf(node string) []CatalogService { return v.s.servicesOf(node) }

// Services calls f with all instances, by node and id, until it returns false.
func (v *View) Services(f func(CatalogService) bool) {
	v.s.scan(TableService, "", "", func(r *record) bool { return f(must(catalogServiceOf(r))) })
}

// Instances returns the instances of a service, by node and id.
func (v *View) Instances(name string) []CatalogService {
	var out []CatalogService
	prefix := name + catalogSeparator
	v.s.scan(TableServiceName, prefix, "", func(r *record) bool {
		node, id, _ := strings.Cut(r.key[len(prefix):], catalogSeparator)
		if s, ok := v.s.service(node, id); ok {
			out = append(out, s)
		}
		return true
	})
	return out
}

// InstanceNodes returns the nodes that have an instance of a service, by name. It looks at keys alone.
func (v *View) InstanceNodes(name string) []string {
	var nodes []string
	prefix := name + catalogSeparator
	v.s.scan(TableServiceName, prefix, "", func(r *record) bool {
		node, _, _ := strings.Cut(r.key[len(prefix):], catalogSeparator)
		if len(nodes) == 0 || nodes[len(nodes)-1] != node {
			nodes = append(nodes, node)
		}
		return true
	})
	return nodes
}

// ChecksOf returns the checks of a node and of the services on it, by id.
func (v *View) ChecksOf(node string) []CatalogCheck {
	all := v.s.checksOf(node)
	for i := range all {
		all[i] = v.s.withService(all[i])
	}
	return all
}

// Checks calls f with all checks, by node and id, until it returns false.
func (v *View) Checks(f func(CatalogCheck) bool) {
	v.s.scan(TableCheck, "", "", func(r *record) bool { return f(v.s.withService(must(catalogCheckOf(r)))) })
}

// ServiceRevision is the highest revision that changed an instance of the service, a check of one or
// of its node, or its node. It is the revision of the row of TableCatalogIndex that ServiceKey names,
// stays when the last instance goes, and does not move with other services.
func (v *View) ServiceRevision(name string) uint64 { return v.s.traceRevision(serviceTrace(name)) }

// CatalogRevision is the same for a node: what is registered of it and on it. NodeKey names the row.
func (v *View) CatalogRevision(node string) uint64 { return v.s.traceRevision(nodeTrace(node)) }

// ServiceKey is the key of a service's row in TableCatalogIndex, for those who wait for its changes.
func ServiceKey(name string) string { return serviceTrace(name) }

// NodeKey is the same for a node.
func NodeKey(node string) string { return nodeTrace(node) }

func catalogNodeOf(r *record) (CatalogNode, error) {
	return decodeCatalogNode(r.key, r.revision, r.row)
}

func catalogServiceOf(r *record) (CatalogService, error) {
	return decodeCatalogService(r.key, r.revision, r.row)
}

func catalogCheckOf(r *record) (CatalogCheck, error) {
	return decodeCatalogCheck(r.key, r.revision, r.row)
}

func (s *store) catalogNode(name string) (CatalogNode, bool) {
	r, ok := s.get(TableCatalogNode, name)
	if !ok {
		return CatalogNode{}, false
	}
	return must(catalogNodeOf(r)), true
}

func (s *store) service(node, id string) (CatalogService, bool) {
	r, ok := s.get(TableService, catalogKey(node, id))
	if !ok {
		return CatalogService{}, false
	}
	return must(catalogServiceOf(r)), true
}

// check is a check with the name and tags of its service.
func (s *store) check(node, id string) (CatalogCheck, bool) {
	r, ok := s.get(TableCheck, catalogKey(node, id))
	if !ok {
		return CatalogCheck{}, false
	}
	return s.withService(must(catalogCheckOf(r))), true
}

func (s *store) withService(c CatalogCheck) CatalogCheck {
	if c.ServiceID == "" {
		return c
	}
	of, _ := s.service(c.Node, c.ServiceID)
	c.ServiceName, c.ServiceTags = of.Name, of.Tags
	return c
}

func (s *store) servicesOf(node string) []CatalogService {
	var out []CatalogService
	s.scan(TableService, catalogKey(node, ""), "", func(r *record) bool {
		out = append(out, must(catalogServiceOf(r)))
		return true
	})
	return out
}

func (s *store) checksOf(node string) []CatalogCheck {
	var out []CatalogCheck
	s.scan(TableCheck, catalogKey(node, ""), "", func(r *record) bool {
		out = append(out, must(catalogCheckOf(r)))
		return true
	})
	return out
}
