package state

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
)

// Each encoded row begins with its format, so that a later cluster version can change one table.
// The row's key and the revision that last changed it are kept beside it, not in it.
const rowFormat = 1

func newRow(sizeHint int) []byte { return append(make([]byte, 0, sizeHint+1), rowFormat) }

// openRow returns a reader behind the format byte.
func openRow(row []byte) reader {
	r := reader{b: row}
	if f := r.byte("row format"); r.err == nil && f != rowFormat {
		r.fail(fmt.Sprintf("row format %d is unknown to this binary", f))
	}
	return r
}

// noRow returns nil for a row with nothing in it: what it says is in its key.
func noRow(row []byte) error {
	r := openRow(row)
	return r.done()
}

func encodeKV(kv KV) []byte {
	n := sizeUvarint(kv.Flags) + sizeUvarint(kv.CreateRevision) + sizeUvarint(kv.Version) + sizeUvarint(uint64(kv.ModifiedAt)) +
		sizeUvarint(kv.LockIndex) + sizeBytes(len(kv.Session)) + sizeBytes(len(kv.Value))
	b := newRow(n) // exactly: there may be millions
	b = binary.AppendUvarint(b, kv.Flags)
	b = binary.AppendUvarint(b, kv.CreateRevision)
	b = binary.AppendUvarint(b, kv.Version)
	b = binary.AppendUvarint(b, uint64(kv.ModifiedAt))
	b = appendString(b, kv.Session)
	b = binary.AppendUvarint(b, kv.LockIndex)
	return appendBytes(b, kv.Value)
}

func decodeKV(key string, revision uint64, row []byte) (KV, error) {
	r := openRow(row)
	kv := KV{Key: key, ModRevision: revision}
	kv.Flags = r.uvarint()
	kv.CreateRevision = r.uvarint()
	kv.Version = r.uvarint()
	kv.ModifiedAt = clock.Stamp(r.uvarint())
	kv.Session = r.string(maxSessionBytes, "session")
	kv.LockIndex = r.uvarint()
	kv.Value = r.bytes(MaxValueBytes, "value")
	return kv, r.done()
}

// EncodeNode returns the node's row; NodeJoin answers with one.
func EncodeNode(n Node) []byte {
	b := newRow(256)
	b = appendString(b, n.Name)
	b = append(b, n.UID[:]...)
	b = appendBytes(b, n.HostKey)
	b = appendBytes(b, n.SealKey)
	b = binary.AppendUvarint(b, n.BindingEpoch)
	b = appendString(b, string(n.Role))
	b = appendBool(b, n.CoreGrant)
	b = appendString(b, n.Zone)
	b = appendString(b, n.Address)
	b = binary.AppendUvarint(b, uint64(n.JoinedAt))
	b = appendBool(b, n.Left)
	if n.HeldUntil > 0 { // seldom, and rows of before have no such field
		b = binary.AppendUvarint(b, uint64(n.HeldUntil))
	}
	return b
}

// DecodeNode reads what EncodeNode wrote. The error is ErrMalformed, wrapped.
func DecodeNode(row []byte) (Node, error) {
	r := openRow(row)
	var n Node
	n.Name = r.string(MaxNameBytes, "node name")
	n.UID = r.fixed16("node uid")
	n.HostKey = r.bytes(MaxHostKeyBytes, "host key")
	n.SealKey = r.bytes(SealKeyBytes, "seal key")
	n.BindingEpoch = r.uvarint()
	n.Role = readRole(&r)
	n.CoreGrant = r.bool("core grant")
	n.Zone = r.string(MaxZoneBytes, "zone")
	n.Address = r.string(MaxAddressBytes, "address")
	n.JoinedAt = clock.Stamp(r.uvarint())
	n.Left = r.bool("left")
	if r.err == nil && len(r.b) > 0 {
		if n.HeldUntil = clock.Stamp(r.uvarint()); n.HeldUntil == 0 {
			r.fail("held until 0 is written as nothing")
		}
	}
	return n, r.done()
}

// readRole accepts the empty role, which may do nothing.
func readRole(r *reader) policy.Role {
	role := policy.Role(r.string(32, "role"))
	if role != "" && !role.Valid() {
		r.fail("role is unknown")
	}
	return role
}

func appendToken(b []byte, t Token) []byte {
	b = appendString(b, t.ID)
	b = appendBytes(b, t.Verify)
	b = binary.AppendUvarint(b, uint64(t.Expires))
	b = binary.AppendUvarint(b, uint64(t.Uses))
	b = appendString(b, t.BoundNode)
	b = appendString(b, string(t.Role))
	b = appendBool(b, t.Core)
	b = appendString(b, t.Replace)
	b = binary.AppendUvarint(b, uint64(t.Created))
	b = appendBool(b, t.Revoked)
	b = binary.AppendUvarint(b, uint64(len(t.Redeemed)))
	for _, d := range t.Redeemed {
		b = append(b, d.CSRKeyHash[:]...)
		b = appendString(b, d.Node)
	}
	return b
}

func readToken(r *reader) Token {
	var t Token
	t.ID = r.string(16, "token id")
	t.Verify = r.bytes(VerifyBytes, "verification key")
	t.Expires = clock.Stamp(r.uvarint())
	t.Uses = readInt(r, "uses")
	t.BoundNode = r.string(MaxNameBytes, "bound node")
	t.Role = readRole(r)
	t.Core = r.bool("core")
	t.Replace = r.string(MaxNameBytes, "replace")
	t.Created = clock.Stamp(r.uvarint())
	t.Revoked = r.bool("revoked")
	for range r.count(MaxTokenUses, "redemptions") {
		d := Redemption{CSRKeyHash: r.fixed32("key hash"), Node: r.string(MaxNameBytes, "node")}
		t.Redeemed = append(t.Redeemed, d)
	}
	return t
}

// readInt reads a number that an int of 32 bits can hold.
func readInt(r *reader, what string) int {
	v := r.uvarint()
	if v > 1<<31-1 {
		r.fail(what + " over the limit")
		return 0
	}
	return int(v)
}

func encodeToken(t Token) []byte { return appendToken(newRow(128), t) }

func decodeToken(row []byte) (Token, error) {
	r := openRow(row)
	t := readToken(&r)
	return t, r.done()
}

// coreKey orders the Raft ids by number.
func coreKey(raftID uint64) string { return string(binary.BigEndian.AppendUint64(nil, raftID)) }

func encodeCore(c CoreMember) []byte {
	b := binary.AppendUvarint(newRow(48), c.RaftID)
	return appendBool(appendString(b, c.Node), c.Retired)
}

func decodeCore(row []byte) (CoreMember, error) {
	r := openRow(row)
	var c CoreMember
	c.RaftID = r.uvarint()
	c.Node = r.string(MaxNameBytes, "node name")
	c.Retired = r.bool("retired")
	return c, r.done()
}

func encodeCluster(c Cluster) []byte {
	b := appendString(newRow(128), c.ID)
	b = appendString(b, c.TrustDomain)
	b = binary.AppendUvarint(b, c.Epoch.Counter)
	b = append(b, c.Epoch.ID[:]...)
	b = binary.AppendUvarint(b, uint64(c.Version))
	b = binary.AppendUvarint(b, c.NextRaftID)
	b = binary.AppendUvarint(b, uint64(c.CoreSize))
	return binary.AppendUvarint(b, uint64(c.AutoGrants))
}

func decodeCluster(row []byte) (Cluster, error) {
	r := openRow(row)
	var c Cluster
	c.ID = r.string(32, "cluster id")
	c.TrustDomain = r.string(MaxTrustBytes, "trust domain")
	c.Epoch.Counter = r.uvarint()
	c.Epoch.ID = r.fixed16("epoch")
	c.Version = uint32(readInt(&r, "cluster version"))
	c.NextRaftID = r.uvarint()
	c.CoreSize = readInt(&r, "core size")
	c.AutoGrants = readInt(&r, "grants left")
	return c, r.done()
}

func appendBundle(b []byte, bundle Bundle) []byte {
	b = binary.AppendUvarint(b, bundle.Sequence)
	b = binary.AppendUvarint(b, uint64(len(bundle.Roots)))
	for _, root := range bundle.Roots {
		b = appendBytes(b, root)
	}
	return b
}

func readBundle(r *reader) Bundle {
	b := Bundle{Sequence: r.uvarint()}
	for range r.count(MaxRoots, "roots") {
		b.Roots = append(b.Roots, r.bytes(MaxRootBytes, "root"))
	}
	return b
}

func encodeBundle(bundle Bundle) []byte { return appendBundle(newRow(1024), bundle) }

func decodeBundle(row []byte) (Bundle, error) {
	r := openRow(row)
	b := readBundle(&r)
	return b, r.done()
}

func encodeSeal(s Seal) []byte {
	return appendBytes(appendString(newRow(512), s.Node), s.Sealed)
}

func decodeSeal(row []byte) (Seal, error) {
	r := openRow(row)
	s := Seal{Node: r.string(MaxNameBytes, "node name"), Sealed: r.bytes(MaxSealedBytes, "seal")}
	return s, r.done()
}

func encodeFloor(revision uint64) []byte { return binary.AppendUvarint(newRow(10), revision) }

func decodeFloor(row []byte) (uint64, error) {
	r := openRow(row)
	floor := r.uvarint()
	return floor, r.done()
}

var errOtherKey = fmt.Errorf("%w: row of another key", ErrMalformed)

// checkRow returns nil for a row that its table can hold under that key. Rows from a snapshot or a
// stream pass it before they are stored, so that reading one later cannot fail.
func checkRow(t Table, key string, revision uint64, row []byte) error {
	own, err := key, error(nil)
	switch t {
	case TableKV:
		if err = CheckKey(key); err == nil {
			_, err = decodeKV(key, revision, row)
		}
	case TableTombstone:
		if err = CheckKey(key); err == nil && len(row) > 0 {
			err = fmt.Errorf("%w: tombstone with a row", ErrMalformed)
		}
	case TableNode:
		var n Node
		n, err = DecodeNode(row)
		own = n.Name
	case TableCore:
		var c CoreMember
		c, err = decodeCore(row)
		own = coreKey(c.RaftID)
	case TableToken:
		var token Token
		token, err = decodeToken(row)
		own = token.ID
	case TableSeal, TableNextSeal:
		var s Seal
		s, err = decodeSeal(row)
		own = s.Node
	case TableEvent:
		var e Event
		e, err = decodeEvent(row)
		own = eventKey(e)
	case TableCanary:
		var c Canary
		c, err = decodeCanary(row)
		own = requestKey(c.Index, c.Place)
	case TableOperator:
		var o Operator
		o, err = DecodeOperator(row)
		own = o.Name
	case TableEntry, TableJWTKey, TableSealKey, TableUpstream, TableAdmission, TableDeny, TableGeneration, TableFork:
		err = checkIdentityRow(t, key, row)
	case TableSession, TableNodeSessions, TableHold, TableDelay, TableDelayEnd:
		err = checkSessionRow(t, key, row)
	case TableCatalogNode, TableService, TableServiceName, TableCheck, TableCatalogIndex, TableSessionCheck:
		err = checkCatalogRow(t, key, row)
	case TableRequest:
		err = checkRequestRow(key, row)
	case TableQuarantine:
		err = checkQuarantineRow(key, row)
	case TableHistory:
		err = checkHistoryRow(key, revision, row)
	case TableDenial:
		err = checkDenialRow(key, row)
	case TableHistoryMark:
		err = checkHistoryMark(key, row)
	case TableEpoch:
		err = checkEpochRow(key, row)
	default:
		own = ""
		err = checkSingle(t, row)
	}
	if err == nil && own != key {
		err = errOtherKey
	}
	if err != nil {
		return fmt.Errorf("row of table %s, key %s: %w", t, strconv.Quote(key), err)
	}
	return nil
}

// checkSingle is checkRow for the tables of one row, whose key is empty.
func checkSingle(t Table, row []byte) error {
	var err error
	switch t {
	case TableCluster:
		_, err = decodeCluster(row)
	case TableBundle:
		_, err = decodeBundle(row)
	case TableAuthority:
		_, err = decodeAuthority(row)
	case TableRecovery:
		_, err = decodeRecovery(row)
	case TableFloor, TableHistorySweep:
		_, err = decodeFloor(row)
	default:
		err = fmt.Errorf("%w: unknown table", ErrMalformed)
	}
	return err
}
