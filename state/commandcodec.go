package state

import (
	"encoding/binary"
	"slices"
)

// The bodies of the commands, version 1. Field order is the order on the wire.

func (c Put) append(b []byte) []byte {
	b = appendString(b, c.Key)
	b = binary.AppendUvarint(b, c.Flags)
	b = appendOptional(b, c.Compare)
	return appendBytes(b, c.Value)
}

func readPut(r *reader) Command {
	return Put{
		Key:     r.string(MaxKeyBytes, "key"),
		Flags:   r.uvarint(),
		Compare: r.optional("compare"),
		Value:   r.bytes(MaxValueBytes, "value"),
	}
}

func (c Delete) append(b []byte) []byte { return appendOptional(appendString(b, c.Key), c.Compare) }

func readDelete(r *reader) Command {
	return Delete{Key: r.string(MaxKeyBytes, "key"), Compare: r.optional("compare")}
}

func (c DeletePrefix) append(b []byte) []byte { return appendString(b, c.Prefix) }

func readDeletePrefix(r *reader) Command {
	return DeletePrefix{Prefix: r.string(MaxKeyBytes, "prefix")}
}

// The numbers of targets, relations and op kinds on the wire are their places here.
var (
	targets   = []Target{TargetRevision, TargetCreateRevision, TargetVersion, TargetValue}
	relations = []Relation{Equal, NotEqual, Less, Greater}
	opKinds   = []OpKind{
		OpPut, OpDelete, OpDeletePrefix, OpGet, OpLock, OpUnlock, OpGetTree, OpGetExisting,
		OpCheckRevision, OpCheckSession, OpCheckAbsent,
		OpNodeGet, OpNodeSet, OpNodeDelete, OpServiceGet, OpServiceSet, OpServiceDelete,
		OpCheckGet, OpCheckSet, OpCheckDelete, OpSessionDestroy,
	}
)

// appendWord encodes v by its place in words; check has made sure that it is there.
func appendWord[T comparable](b []byte, words []T, v T) []byte {
	return append(b, byte(slices.Index(words, v)))
}

func readWord[T any](r *reader, words []T, what string) (v T) {
	i := int(r.byte(what))
	if i >= len(words) {
		r.fail(what + " unknown")
		return v
	}
	return words[i]
}

func (c Txn) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Compare)))
	for _, compare := range c.Compare {
		b = appendString(b, compare.Key)
		b = appendWord(b, targets, compare.Target)
		b = appendWord(b, relations, compare.Relation)
		b = binary.AppendUvarint(b, compare.Number)
		b = appendBytes(b, compare.Value)
	}
	return appendOps(appendOps(b, c.Then), c.Else)
}

func appendOps(b []byte, ops []Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for _, op := range ops {
		b = appendWord(b, opKinds, op.Kind)
		if slices.Contains(catalogOps, op.Kind) {
			b = op.appendCatalog(b)
			continue
		}
		b = appendString(b, op.Key)
		b = binary.AppendUvarint(b, op.Flags)
		b = appendOptional(b, op.Compare)
		b = appendString(b, op.Session)
		b = appendBytes(b, op.Value)
	}
	return b
}

func readTxn(r *reader) Command {
	var c Txn
	for range r.count(MaxTxnOps, "compares") {
		c.Compare = append(c.Compare, Compare{
			Key:      r.string(MaxKeyBytes, "key"),
			Target:   readWord(r, targets, "target"),
			Relation: readWord(r, relations, "relation"),
			Number:   r.uvarint(),
			Value:    r.bytes(MaxValueBytes, "value"),
		})
	}
	c.Then = readOps(r)
	c.Else = readOps(r)
	return c
}

func readOps(r *reader) []Op {
	n := r.count(MaxTxnOps, "ops")
	ops := slices.Grow([]Op(nil), n)
	for range n {
		kind := readWord(r, opKinds, "op")
		if slices.Contains(catalogOps, kind) {
			ops = append(ops, readCatalogOp(r, kind))
			continue
		}
		ops = append(ops, Op{
			Kind:    kind,
			Key:     r.string(MaxKeyBytes, "key"),
			Flags:   r.uvarint(),
			Compare: r.optional("compare"),
			Session: r.string(maxSessionBytes, "session"),
			Value:   r.bytes(MaxValueBytes, "value"),
		})
	}
	return ops
}

func (c TokenCreate) append(b []byte) []byte { return appendToken(b, c.Token) }

func readTokenCreate(r *reader) Command { return TokenCreate{Token: readToken(r)} }

func (c TokenRevoke) append(b []byte) []byte { return appendString(b, c.ID) }

func readTokenRevoke(r *reader) Command { return TokenRevoke{ID: r.string(16, "token id")} }

func (c NodeJoin) append(b []byte) []byte {
	b = appendString(b, c.Token)
	b = append(b, c.CSRKeyHash[:]...)
	b = appendString(b, c.Node)
	b = append(b, c.UID[:]...)
	b = appendBytes(b, c.HostKey)
	b = appendBytes(b, c.SealKey)
	b = appendString(b, c.Zone)
	return appendString(b, c.Address)
}

func readNodeJoin(r *reader) Command {
	return NodeJoin{
		Token:      r.string(16, "token id"),
		CSRKeyHash: r.fixed32("key hash"),
		Node:       r.string(MaxNameBytes, "node name"),
		UID:        r.fixed16("node uid"),
		HostKey:    r.bytes(MaxHostKeyBytes, "host key"),
		SealKey:    r.bytes(SealKeyBytes, "seal key"),
		Zone:       r.string(MaxZoneBytes, "zone"),
		Address:    r.string(MaxAddressBytes, "address"),
	}
}

func (c NodeSetRole) append(b []byte) []byte {
	return appendString(appendString(b, c.Node), string(c.Role))
}

func readNodeSetRole(r *reader) Command {
	return NodeSetRole{Node: r.string(MaxNameBytes, "node name"), Role: readRole(r)}
}

func (c NodeSetLeft) append(b []byte) []byte { return appendBool(appendString(b, c.Node), c.Left) }

func readNodeSetLeft(r *reader) Command {
	return NodeSetLeft{Node: r.string(MaxNameBytes, "node name"), Left: r.bool("left")}
}

func (c CoreGrant) append(b []byte) []byte { return appendBool(appendString(b, c.Node), c.Allow) }

func readCoreGrant(r *reader) Command {
	return CoreGrant{Node: r.string(MaxNameBytes, "node name"), Allow: r.bool("allow")}
}

func (c CoreAssign) append(b []byte) []byte { return appendString(b, c.Node) }

func readCoreAssign(r *reader) Command {
	return CoreAssign{Node: r.string(MaxNameBytes, "node name")}
}

func (c CoreRetire) append(b []byte) []byte { return binary.AppendUvarint(b, c.RaftID) }

func readCoreRetire(r *reader) Command { return CoreRetire{RaftID: r.uvarint()} }

func (c CoreHold) append(b []byte) []byte {
	return binary.AppendUvarint(appendString(b, c.Node), c.Millis)
}

func readCoreHold(r *reader) Command {
	return CoreHold{Node: r.string(MaxNameBytes, "node name"), Millis: r.uvarint()}
}

func (c CoreSeal) append(b []byte) []byte { return appendBytes(appendString(b, c.Node), c.Sealed) }

func readCoreSeal(r *reader) Command {
	return CoreSeal{
		Node:   r.string(MaxNameBytes, "node name"),
		Sealed: r.bytes(MaxSealedBytes, "seal"),
	}
}

func (c SetCoreSize) append(b []byte) []byte { return binary.AppendUvarint(b, uint64(c.Size)) }

func readSetCoreSize(r *reader) Command { return SetCoreSize{Size: readInt(r, "core size")} }

func (c SetClusterVersion) append(b []byte) []byte {
	return binary.AppendUvarint(b, uint64(c.Version))
}

func readSetClusterVersion(r *reader) Command {
	return SetClusterVersion{Version: uint32(readInt(r, "cluster version"))}
}

func (c SetBundle) append(b []byte) []byte { return appendBundle(b, c.Bundle) }

func readSetBundle(r *reader) Command { return SetBundle{Bundle: readBundle(r)} }
