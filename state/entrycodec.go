package state

import (
	"encoding/binary"

	"github.com/parley-mesh/parley/clock"
)

func (c EntrySet) append(b []byte) []byte { return appendBool(appendEntry(b, c.Entry), c.Replace) }

func readEntrySet(r *reader) Command {
	return EntrySet{Entry: readEntry(r), Replace: r.bool("replace")}
}

func (c EntryDelete) append(b []byte) []byte { return appendString(b, c.Name) }

func readEntryDelete(r *reader) Command {
	return EntryDelete{Name: r.string(MaxNameBytes, "entry name")}
}

// appendEntry encodes what a command says of an entry.
func appendEntry(b []byte, e Entry) []byte {
	b = appendString(appendString(b, e.Name), e.SPIFFEID)
	b = appendList(b, e.Selectors)
	b = appendList(b, e.Nodes)
	b = appendString(b, e.Service)
	b = appendList(b, e.FederatesWith)
	b = binary.AppendUvarint(b, e.TTLSeconds)
	b = binary.AppendUvarint(b, e.JWTTTLSeconds)
	return appendString(appendString(b, e.Hint), e.Owner)
}

func readEntry(r *reader) Entry {
	return Entry{
		Name: r.string(MaxNameBytes, "entry name"), SPIFFEID: r.string(MaxSPIFFEIDBytes, "SPIFFE ID"),
		Selectors:     readList(r, MaxEntrySelectors, MaxSelectorBytes, "selectors"),
		Nodes:         readList(r, MaxEntryNodes, MaxNameBytes, "nodes"),
		Service:       r.string(MaxServiceNameBytes, "service name"),
		FederatesWith: readList(r, MaxEntryFederates, MaxTrustBytes, "trust domains"),
		TTLSeconds:    r.uvarint(), JWTTTLSeconds: r.uvarint(),
		Hint: r.string(MaxEntryHintBytes, "hint"), Owner: r.string(MaxEntryOwnerBytes, "owner"),
	}
}

func appendList(b []byte, all []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendString(b, s)
	}
	return b
}

func readList(r *reader, most, limit int, what string) []string {
	var all []string
	for range r.count(most, what) {
		all = append(all, r.string(limit, what))
	}
	return all
}

// EncodeEntry returns the entry's row; EntrySet answers with one.
func EncodeEntry(e Entry) []byte {
	b := appendEntry(newRow(256), e)
	b = binary.AppendUvarint(b, uint64(e.CreatedAt))
	b = binary.AppendUvarint(b, uint64(e.ChangedAt))
	b = appendString(b, e.ChangedBy)
	return binary.AppendUvarint(b, e.Generation)
}

// DecodeEntry reads what EncodeEntry wrote. The error is ErrMalformed, wrapped.
func DecodeEntry(row []byte) (Entry, error) {
	r := openRow(row)
	e := readEntry(&r)
	e.CreatedAt, e.ChangedAt = clock.Stamp(r.uvarint()), clock.Stamp(r.uvarint())
	e.ChangedBy = r.string(MaxCallerBytes, "caller")
	e.Generation = r.uvarint()
	return e, r.done()
}

// checkIdentityRow is checkRow for the tables of identities of programs, and of keys and copies of nodes.
func checkIdentityRow(t Table, key string, row []byte) error {
	var own string
	var err error
	switch t {
	case TableEntry:
		var e Entry
		e, err = DecodeEntry(row)
		own = e.Name
	case TableUpstream:
		var u Upstream
		u, err = decodeUpstream(row)
		own = string(u.Authority[:])
	case TableAdmission:
		var a Admission
		a, err = decodeAdmission(row)
		own = a.Name
	case TableDeny:
		var d Deny
		d, err = DecodeDeny(row)
		mark := d.Mark()
		own = string(mark[:])
	case TableSealKey:
		var k SealKey
		k, err = decodeSealKey(row)
		own = k.Node
	case TableGeneration, TableFork:
		own, err = checkGenerationRow(t, row)
	default:
		var k JWTKey
		k, err = DecodeJWTKey(row)
		own = k.ID
	}
	if err != nil {
		return err
	}
	if own != key {
		return errOtherKey
	}
	return nil
}
