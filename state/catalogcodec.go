package state

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Rows of services and checks are keyed by node and id. Neither holds the byte between them.
const catalogSeparator = "\x00"

func catalogKey(node, id string) string { return node + catalogSeparator + id }

// splitCatalogKey checks the node's name, as the key of a stored row has to have one.
func splitCatalogKey(key string, limit int) (node, id string, err error) {
	node, id, ok := strings.Cut(key, catalogSeparator)
	if !ok {
		return "", "", fmt.Errorf("%w: catalog key without a node", ErrMalformed)
	}
	if err := CheckNodeName(node); err != nil {
		return "", "", err
	}
	return node, id, checkName("id", id, limit)
}

// The bodies and rows share what follows. What is kept beside a row is left out: names, and the
// revision that last changed it.

func appendCatalogNode(b []byte, n CatalogNode) []byte {
	b = appendString(b, n.ID)
	b = appendString(b, n.Address)
	b = appendPairs(b, n.TaggedAddresses)
	b = appendPairs(b, n.Meta)
	b = appendString(b, n.Owner)
	return binary.AppendUvarint(b, n.CreateRevision)
}

func readCatalogNode(r *reader, name string) CatalogNode {
	return CatalogNode{
		Name:            name,
		ID:              r.string(36, "node id"),
		Address:         r.string(MaxAddressBytes, "address"),
		TaggedAddresses: readPairs(r, MaxTaggedAddresses),
		Meta:            readPairs(r, MaxMetaPairs),
		Owner:           r.string(MaxCallerBytes, "owner"),
		CreateRevision:  r.uvarint(),
	}
}

// appendCatalogService has the name first: see serviceNameOf.
func appendCatalogService(b []byte, s CatalogService) []byte {
	b = appendString(b, s.Name)
	b = appendStrings(b, s.Tags)
	b = appendString(b, s.Address)
	b = binary.AppendUvarint(b, uint64(s.Port))
	b = appendString(b, s.SocketPath)
	b = binary.AppendUvarint(b, uint64(len(s.TaggedAddresses)))
	for _, t := range s.TaggedAddresses {
		b = appendString(appendString(b, t.Name), t.Address)
		b = binary.AppendUvarint(b, uint64(t.Port))
	}
	b = appendPairs(b, s.Meta)
	b = binary.AppendUvarint(b, uint64(s.PassingWeight))
	b = binary.AppendUvarint(b, uint64(s.WarningWeight))
	b = appendBool(b, s.EnableTagOverride)
	b = appendString(b, s.Owner)
	return binary.AppendUvarint(b, s.CreateRevision)
}

func readCatalogService(r *reader, node, id string) CatalogService {
	s := CatalogService{
		Node: node, ID: id,
		Name:       r.string(MaxServiceNameBytes, "service name"),
		Tags:       readStrings(r, MaxTags, MaxServiceNameBytes, "tag"),
		Address:    r.string(MaxAddressBytes, "address"),
		Port:       readInt(r, "port"),
		SocketPath: r.string(MaxSocketPathBytes, "socket path"),
	}
	for range r.count(MaxTaggedAddresses, "tagged addresses") {
		s.TaggedAddresses = append(s.TaggedAddresses, TaggedAddress{
			Name: r.string(MaxMetaKeyBytes, "name"), Address: r.string(MaxAddressBytes, "address"), Port: readInt(r, "port"),
		})
	}
	s.Meta = readPairs(r, MaxMetaPairs)
	s.PassingWeight, s.WarningWeight = readInt(r, "weight"), readInt(r, "weight")
	s.EnableTagOverride = r.bool("tag override")
	s.Owner = r.string(MaxCallerBytes, "owner")
	s.CreateRevision = r.uvarint()
	return s
}

func appendCatalogCheck(b []byte, c CatalogCheck) []byte {
	b = appendString(b, c.Name)
	b = appendWord(b, checkStatuses, c.Status)
	b = appendString(b, c.Notes)
	b = appendString(b, c.Output)
	b = appendString(b, c.ServiceID)
	b = appendString(b, c.Type)
	b = appendBytes(b, c.Definition)
	b = appendString(b, c.Owner)
	return binary.AppendUvarint(b, c.CreateRevision)
}

func readCatalogCheck(r *reader, node, id string) CatalogCheck {
	return CatalogCheck{
		Node: node, ID: id,
		Name:           r.string(MaxCheckNameBytes, "check name"),
		Status:         readWord(r, checkStatuses, "status"),
		Notes:          r.string(MaxNotesBytes, "notes"),
		Output:         r.string(MaxOutputBytes, "output"),
		ServiceID:      r.string(MaxServiceNameBytes, "service id"),
		Type:           r.string(MaxCheckTypeBytes, "type"),
		Definition:     r.bytes(MaxDefinitionBytes, "definition"),
		Owner:          r.string(MaxCallerBytes, "owner"),
		CreateRevision: r.uvarint(),
	}
}

func appendPairs(b []byte, pairs []Pair) []byte {
	b = binary.AppendUvarint(b, uint64(len(pairs)))
	for _, p := range pairs {
		b = appendString(appendString(b, p.Key), p.Value)
	}
	return b
}

func readPairs(r *reader, limit int) []Pair {
	var pairs []Pair
	for range r.count(limit, "pairs") {
		pairs = append(pairs, Pair{r.string(MaxMetaKeyBytes, "key"), r.string(MaxMetaValueBytes, "value")})
	}
	return pairs
}

func appendStrings(b []byte, texts []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(texts)))
	for _, text := range texts {
		b = appendString(b, text)
	}
	return b
}

func readStrings(r *reader, count, limit int, what string) []string {
	var texts []string
	for range r.count(count, what) {
		texts = append(texts, r.string(limit, what))
	}
	return texts
}

func (c CatalogRegister) append(b []byte) []byte {
	b = appendString(b, c.Name)
	if b = appendBool(b, c.Node != nil); c.Node != nil {
		b = appendCatalogNode(b, *c.Node)
	}
	b = appendBool(b, c.Keep)
	if b = appendBool(b, c.Service != nil); c.Service != nil {
		b = appendCatalogService(appendString(b, c.Service.ID), *c.Service)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Checks)))
	for _, one := range c.Checks {
		b = appendCatalogCheck(appendString(b, one.ID), one)
	}
	return b
}

func readCatalogRegister(r *reader) Command {
	c := CatalogRegister{Name: r.string(MaxNameBytes, "node name")}
	if r.bool("node") {
		n := readCatalogNode(r, c.Name)
		c.Node = &n
	}
	c.Keep = r.bool("keep")
	if r.bool("service") {
		s := readCatalogService(r, c.Name, r.string(MaxServiceNameBytes, "service id"))
		c.Service = &s
	}
	for range r.count(MaxRegisterChecks, "checks") {
		c.Checks = append(c.Checks, readCatalogCheck(r, c.Name, r.string(MaxCheckNameBytes, "check id")))
	}
	return c
}

func (c CatalogDeregister) append(b []byte) []byte {
	return appendString(appendString(appendString(b, c.Node), c.Service), c.Check)
}

func readCatalogDeregister(r *reader) Command {
	return CatalogDeregister{
		Node:    r.string(MaxNameBytes, "node name"),
		Service: r.string(MaxServiceNameBytes, "service id"),
		Check:   r.string(MaxCheckNameBytes, "check id"),
	}
}

func encodeCatalogNode(n CatalogNode) []byte { return appendCatalogNode(newRow(128), n) }

func decodeCatalogNode(name string, revision uint64, row []byte) (CatalogNode, error) {
	r := openRow(row)
	n := readCatalogNode(&r, name)
	n.ModRevision = revision
	return n, r.done()
}

func encodeCatalogService(s CatalogService) []byte { return appendCatalogService(newRow(128), s) }

func decodeCatalogService(key string, revision uint64, row []byte) (CatalogService, error) {
	node, id, err := splitCatalogKey(key, MaxServiceNameBytes)
	if err != nil {
		return CatalogService{}, err
	}
	r := openRow(row)
	s := readCatalogService(&r, node, id)
	s.ModRevision = revision
	return s, r.done()
}

// serviceNameOf reads the name alone: a change of a node looks at all that it offers.
func serviceNameOf(row []byte) string {
	r := openRow(row)
	return r.string(MaxServiceNameBytes, "service name")
}

func encodeCatalogCheck(c CatalogCheck) []byte { return appendCatalogCheck(newRow(128), c) }

func decodeCatalogCheck(key string, revision uint64, row []byte) (CatalogCheck, error) {
	node, id, err := splitCatalogKey(key, MaxCheckNameBytes)
	if err != nil {
		return CatalogCheck{}, err
	}
	r := openRow(row)
	c := readCatalogCheck(&r, node, id)
	c.ModRevision = revision
	return c, r.done()
}

// checkCatalogRow is checkRow for the tables of the catalog.
func checkCatalogRow(t Table, key string, row []byte) error {
	var err error
	switch t {
	case TableCatalogNode:
		if err = CheckNodeName(key); err == nil {
			_, err = decodeCatalogNode(key, 0, row)
		}
	case TableService:
		_, err = decodeCatalogService(key, 0, row)
	case TableCheck:
		_, err = decodeCatalogCheck(key, 0, row)
	case TableServiceName:
		name, rest, _ := strings.Cut(key, catalogSeparator)
		if err = checkName("service name", name, MaxServiceNameBytes); err == nil {
			_, _, err = splitCatalogKey(rest, MaxServiceNameBytes)
		}
		if err == nil {
			err = noRow(row)
		}
	case TableCatalogIndex:
		if key == "" {
			_, err = decodeFloor(row)
		} else {
			_, err = decodeTrace(row)
		}
	case TableSessionCheck:
		err = checkSessionCheckRow(key, row)
	}
	return err
}

func checkSessionCheckRow(key string, row []byte) error {
	head := len(key) - len(SessionID{}) - len(catalogSeparator)
	if head < 0 || key[head:head+1] != catalogSeparator {
		return fmt.Errorf("%w: index row without a session", ErrMalformed)
	}
	node, _, ok := strings.Cut(key[:head], catalogSeparator)
	if !ok {
		return fmt.Errorf("%w: index row without a node", ErrMalformed)
	}
	if err := CheckNodeName(node); err != nil {
		return err
	}
	return noRow(row)
}
