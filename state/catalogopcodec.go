package state

import "encoding/binary"

// appendCatalog encodes what is behind the kind of an op of the catalog: names, and for a set the rest.
func (op Op) appendCatalog(b []byte) []byte {
	b = appendOptional(b, op.Compare)
	switch op.Kind {
	case OpNodeGet, OpNodeDelete:
		return appendString(b, op.Node.Name)
	case OpNodeSet:
		return appendCatalogNode(appendString(b, op.Node.Name), *op.Node)
	case OpServiceGet, OpServiceDelete:
		return appendString(appendString(b, op.Service.Node), op.Service.ID)
	case OpServiceSet:
		return appendCatalogService(appendString(appendString(b, op.Service.Node), op.Service.ID), *op.Service)
	case OpCheckSet:
		return appendCatalogCheck(appendString(appendString(b, op.Check.Node), op.Check.ID), *op.Check)
	}
	return appendString(appendString(b, op.Check.Node), op.Check.ID)
}

func readCatalogOp(r *reader, kind OpKind) Op {
	op := Op{Kind: kind, Compare: r.optional("compare")}
	node := r.string(MaxNameBytes, "node name")
	switch kind {
	case OpNodeGet, OpNodeDelete:
		op.Node = &CatalogNode{Name: node}
	case OpNodeSet:
		n := readCatalogNode(r, node)
		op.Node = &n
	case OpServiceGet, OpServiceDelete:
		op.Service = &CatalogService{Node: node, ID: r.string(MaxServiceNameBytes, "service id")}
	case OpServiceSet:
		s := readCatalogService(r, node, r.string(MaxServiceNameBytes, "service id"))
		op.Service = &s
	case OpCheckSet:
		c := readCatalogCheck(r, node, r.string(MaxCheckNameBytes, "check id"))
		op.Check = &c
	default:
		op.Check = &CatalogCheck{Node: node, ID: r.string(MaxCheckNameBytes, "check id")}
	}
	return op
}

// What of the catalog an answer carries.
const (
	answerNothing = iota
	answerNode
	answerService
	answerCheck
)

// appendCatalog encodes what the catalog answered: names and revision beside the row, as they are kept.
func (r OpResult) appendCatalog(b []byte) []byte {
	switch {
	case r.Node != nil:
		b = appendString(append(b, answerNode), r.Node.Name)
		b = binary.AppendUvarint(b, r.Node.ModRevision)
		return appendBool(appendCatalogNode(b, *r.Node), r.Node.Agent)
	case r.Service != nil:
		b = appendString(appendString(append(b, answerService), r.Service.Node), r.Service.ID)
		b = binary.AppendUvarint(b, r.Service.ModRevision)
		return appendCatalogService(b, *r.Service)
	case r.Check != nil:
		b = appendString(appendString(append(b, answerCheck), r.Check.Node), r.Check.ID)
		b = binary.AppendUvarint(b, r.Check.ModRevision)
		b = appendCatalogCheck(b, *r.Check)
		return appendStrings(appendString(b, r.Check.ServiceName), r.Check.ServiceTags)
	}
	return append(b, answerNothing)
}

func (r *OpResult) readCatalog(rd *reader) {
	switch rd.byte("answer of the catalog") {
	case answerNothing:
	case answerNode:
		name, revision := rd.string(MaxNameBytes, "node name"), rd.uvarint()
		n := readCatalogNode(rd, name)
		n.ModRevision, n.Agent = revision, rd.bool("agent")
		r.Node = &n
	case answerService:
		node, id := rd.string(MaxNameBytes, "node name"), rd.string(MaxServiceNameBytes, "service id")
		revision := rd.uvarint()
		s := readCatalogService(rd, node, id)
		s.ModRevision = revision
		r.Service = &s
	case answerCheck:
		node, id := rd.string(MaxNameBytes, "node name"), rd.string(MaxCheckNameBytes, "check id")
		revision := rd.uvarint()
		c := readCatalogCheck(rd, node, id)
		c.ModRevision = revision
		c.ServiceName = rd.string(MaxServiceNameBytes, "service name")
		c.ServiceTags = readStrings(rd, MaxTags, MaxServiceNameBytes, "tag")
		r.Check = &c
	default:
		rd.fail("answer of the catalog unknown")
	}
}
