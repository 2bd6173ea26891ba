package state

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security/policy"
	"pgregory.net/rapid"
)

// Few names, so that commands meet.
var (
	genKey   = rapid.SampledFrom([]string{"a", "a/1", "a/2", "ab", "b/1", "b/2/x", "c"})
	genNode  = rapid.SampledFrom([]string{"a1", "a2", "a3", "a4", "a5"})
	genValue = rapid.SliceOfN(rapid.Byte(), 0, 4)
	genCAS   = rapid.Custom(func(t *rapid.T) *uint64 {
		if rapid.Bool().Draw(t, "without compare") {
			return nil
		}
		return ptr(rapid.Uint64Range(0, 12).Draw(t, "compare"))
	})
)

var genOp = rapid.Custom(func(t *rapid.T) Op {
	op := Op{Kind: rapid.SampledFrom(opKinds).Draw(t, "op")}
	if slices.Contains(catalogOps, op.Kind) {
		return drawCatalogOp(t, op)
	}
	op.Key = genKey.Draw(t, "key")
	switch op.Kind {
	case OpSessionDestroy:
		op.Key, op.Session = "", genSession.Draw(t, "session").String()
	case OpCheckRevision:
		op.Compare = ptr(rapid.Uint64Range(0, 12).Draw(t, "revision"))
	case OpLock, OpUnlock, OpCheckSession:
		op.Session = genSession.Draw(t, "session").String()
	}
	if op.Kind == OpPut {
		op.Value, op.Flags = genValue.Draw(t, "value"), rapid.Uint64().Draw(t, "flags")
	}
	if op.Kind == OpPut || op.Kind == OpDelete {
		op.Compare = genCAS.Draw(t, "compare")
	}
	return op
})

var genCompare = rapid.Custom(func(t *rapid.T) Compare {
	return Compare{
		Key: genKey.Draw(t, "key"), Target: rapid.SampledFrom(targets).Draw(t, "target"),
		Relation: rapid.SampledFrom(relations).Draw(t, "relation"),
		Number:   rapid.Uint64Range(0, 12).Draw(t, "number"), Value: genValue.Draw(t, "value"),
	}
})

// genCommand draws key/value commands more often than the others.
var genCommand = rapid.Custom(func(t *rapid.T) Command {
	switch rapid.IntRange(0, 35).Draw(t, "kind") {
	case 33, 34:
		return KVUndo{Key: genKey.Draw(t, "key"), Revision: rapid.Uint64Range(1, 40).Draw(t, "revision")}
	case 35:
		return KVPurge{Key: genKey.Draw(t, "key")}
	case 27, 28, 29, 30, 31, 32:
		return drawCatalogCommand(t)
	case 20, 21, 22, 23, 24, 25, 26:
		return drawSessionCommand(t)
	case 0, 1, 2, 3, 4:
		return Put{Key: genKey.Draw(t, "key"), Value: genValue.Draw(t, "value"), Compare: genCAS.Draw(t, "cas")}
	case 5, 6:
		return Delete{Key: genKey.Draw(t, "key"), Compare: genCAS.Draw(t, "cas")}
	case 7:
		return DeletePrefix{Prefix: rapid.SampledFrom([]string{"", "a", "b/"}).Draw(t, "prefix")}
	case 8, 9:
		return Txn{
			Compare: rapid.SliceOfN(genCompare, 0, 2).Draw(t, "compares"),
			Then:    rapid.SliceOfN(genOp, 0, 3).Draw(t, "then"),
			Else:    rapid.SliceOfN(genOp, 0, 3).Draw(t, "else"),
		}
	case 10:
		k := testToken(rapid.IntRange(1, 3).Draw(t, "token"))
		k.Uses = rapid.IntRange(1, 3).Draw(t, "uses")
		k.Core = rapid.Bool().Draw(t, "core")
		k.Replace = rapid.SampledFrom([]string{"", "a2"}).Draw(t, "replace")
		return TokenCreate{Token: k}
	case 11:
		return TokenRevoke{ID: fmt.Sprintf("%016x", rapid.IntRange(1, 3).Draw(t, "token"))}
	case 12, 13:
		j := testJoin(rapid.IntRange(1, 3).Draw(t, "token"), genNode.Draw(t, "node"))
		j.HostKey = hostKey(genNode.Draw(t, "host"))
		j.CSRKeyHash[31] = rapid.ByteRange(0, 1).Draw(t, "attempt")
		return j
	}
	return drawCoreCommand(t)
})

func drawCoreCommand(t *rapid.T) Command {
	node := genNode.Draw(t, "node")
	switch rapid.IntRange(0, 17).Draw(t, "core kind") {
	case 0:
		return NodeSetRole{Node: node, Role: rapid.SampledFrom(policy.Roles()).Draw(t, "role")}
	case 1:
		return NodeSetLeft{Node: node, Left: rapid.Bool().Draw(t, "left")}
	case 2:
		return CoreGrant{Node: node, Allow: rapid.Bool().Draw(t, "allow")}
	case 3, 4:
		return CoreAssign{Node: node}
	case 5:
		return CoreRetire{RaftID: rapid.Uint64Range(1, 5).Draw(t, "id")}
	case 6:
		return CoreSeal{Node: node, Sealed: rapid.SliceOfN(rapid.Byte(), 1, 3).Draw(t, "sealed")}
	case 7:
		return SetCoreSize{Size: rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "size")}
	case 8:
		if rapid.Bool().Draw(t, "canary") {
			return WriteCanary{Node: node}
		}
		return Probe{}
	case 9:
		return EventAppend{ID: [16]byte{rapid.ByteRange(0, 9).Draw(t, "event")}, Node: node, Kind: EventNote, Message: "m"}
	case 10:
		return NodePlace{Node: node, Zone: rapid.SampledFrom([]string{"", "east"}).Draw(t, "zone"), Address: "10.0.0.1:8310"}
	case 11, 12, 13:
		return drawIdentityCommand(t, node)
	}
	switch rapid.IntRange(0, 4).Draw(t, "rest") {
	case 0:
		return OperatorBind{
			Name: node, Role: rapid.SampledFrom(policy.Roles()[1:]).Draw(t, "role"),
			KeyHash: [32]byte{rapid.ByteRange(1, 4).Draw(t, "key")}, Replace: rapid.Bool().Draw(t, "replace"),
		}
	case 1:
		return OperatorRemove{Name: node}
	case 2:
		return CoreHold{Node: node, Millis: rapid.SampledFrom([]uint64{0, 1, 1000, MaxHoldMillis}).Draw(t, "millis")}
	}
	switch root := []byte{rapid.ByteRange(1, 3).Draw(t, "root")}; rapid.IntRange(0, 6).Draw(t, "authority kind") {
	case 0:
		return RootPrepare{Root: root, Seals: []Seal{{Node: node, Sealed: []byte("next")}}}
	case 1:
		return RootSeal{Node: node, Sealed: []byte("next")}
	case 2:
		return RootActivate{sha256.Sum256(root)}
	case 3:
		return RootRetire{sha256.Sum256(root)}
	case 5:
		return NodeEvict{Node: node, Reason: "r"}
	case 4:
		return CARotate{Force: rapid.Bool().Draw(t, "force"), Compromised: rapid.Bool().Draw(t, "compromised")}
	}
	if rapid.Bool().Draw(t, "generation") {
		if rapid.IntRange(0, 5).Draw(t, "trust") == 0 {
			return NodeTrust{Node: node}
		}
		claim := GenerationClaim{Node: node, Binding: 1, Series: rapid.Uint64Range(0, 1).Draw(t, "series"), First: rapid.Uint64Range(1, 3).Draw(t, "first")}
		for n := range rapid.Uint64Range(1, 3).Draw(t, "claimed") {
			claim.Marks = append(claim.Marks, GenerationMark{byte(claim.First + n), rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "copy")})
		}
		claim.Live = rapid.Bool().Draw(t, "live")
		if rapid.IntRange(0, 3).Draw(t, "word") == 0 {
			claim.Word = clock.Stamp(rapid.Uint64Range(1, 3).Draw(t, "until"))
		}
		return NodeGenerations{[]GenerationClaim{claim}}
	}
	if rapid.Bool().Draw(t, "seal key") {
		return SealKeySet{Node: node, Key: hardSealKey(rapid.ByteRange(1, 2).Draw(t, "hard")), Signing: sha256.Sum256([]byte("root")), Sealed: []byte("s")}
	}
	if rapid.Bool().Draw(t, "upstream") {
		if rapid.Bool().Draw(t, "leave") {
			return UpstreamLeave{}
		}
		return UpstreamPrepare{
			Chain: [][]byte{{rapid.ByteRange(4, 6).Draw(t, "authority")}, {rapid.ByteRange(1, 8).Draw(t, "above")}}, Seals: []Seal{{Node: node, Sealed: []byte("next")}},
		}
	}
	if rapid.Bool().Draw(t, "recovery") {
		return RecoverySet{Recovery{SealKey: sealKey(node), Sealed: []byte("sealed to the recovery key")}}
	}
	return SetBundle{Bundle{Sequence: rapid.Uint64Range(1, 6).Draw(t, "sequence"), Roots: [][]byte{{1}}}}
}

func drawIdentityCommand(t *rapid.T, node string) Command {
	key := fmt.Sprintf("%032x", rapid.IntRange(1, 6).Draw(t, "jwt key"))
	switch rapid.IntRange(0, 9).Draw(t, "identity kind") {
	case 8, 9:
		return drawDeny(t, node)
	case 6:
		a := testAdmission(node)
		a.Names = rapid.SampledFrom([]string{"*", "a*"}).Draw(t, "names")
		return AdmissionSet{Admission: a, Replace: rapid.Bool().Draw(t, "replace")}
	case 7:
		return AdmissionDelete{Name: node}
	case 0, 1:
		e := testEntry(node)
		e.Selectors = rapid.SampledFrom([][]string{{"uid:1"}, {"path:/x", "unit:a.service"}}).Draw(t, "selectors")
		e.Service = rapid.SampledFrom([]string{"", "web"}).Draw(t, "service")
		e.TTLSeconds = rapid.SampledFrom([]uint64{0, 60}).Draw(t, "ttl")
		return EntrySet{Entry: e, Replace: rapid.Bool().Draw(t, "replace")}
	case 2:
		return EntryDelete{Name: node}
	case 3:
		return JWTKeyRevoke{ID: key}
	}
	return JWTKeyPublish{ID: key, Node: node, Key: []byte(key), NotAfter: testEpochMs/1000 + rapid.Uint64Range(1, 100).Draw(t, "end")}
}

func drawDeny(t *rapid.T, node string) Command {
	kind, subject := DenyID, testEntry(node).SPIFFEID
	if rapid.Bool().Draw(t, "serial") {
		kind, subject = DenySerial, fmt.Sprintf("4%031x", rapid.IntRange(1, 3).Draw(t, "serial number"))
	}
	if rapid.Bool().Draw(t, "lift") {
		return DenyRemove{Kind: kind, Subject: subject}
	}
	return DenySet{Kind: kind, Subject: subject, Seconds: rapid.Uint64Range(1, 100).Draw(t, "deny for"), Reason: "r"}
}

var genSession = rapid.Custom(func(t *rapid.T) SessionID {
	return testSession(rapid.IntRange(1, 3).Draw(t, "session")).ID
})

func drawSessionCommand(t *rapid.T) Command {
	id, key := genSession.Draw(t, "id"), genKey.Draw(t, "key")
	switch rapid.IntRange(0, 5).Draw(t, "session kind") {
	case 0, 1:
		s := testSession(1)
		s.ID, s.Behavior = id, rapid.SampledFrom(behaviors).Draw(t, "behavior")
		s.LockDelay = time.Duration(rapid.IntRange(0, 3).Draw(t, "delay")) * time.Second
		s.Node = genCatalogNode.Draw(t, "node")
		s.NodeChecks = rapid.SliceOfN(genCheckID, 0, 2).Draw(t, "checks")
		return SessionCreate{s}
	case 2:
		return SessionDestroy{ID: id, Reason: rapid.SampledFrom(reasons).Draw(t, "reason")}
	case 3:
		return Unlock{Key: key, Session: id.String()}
	}
	return Lock{Key: key, Value: genValue.Draw(t, "value"), Session: id.String()}
}

var genEntry = rapid.SliceOfN(genCommand, 0, 4)
