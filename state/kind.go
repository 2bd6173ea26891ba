package state

// A kind is a command's number in the log. Numbers are never reused.
type kind uint64

const (
	kindPut kind = 1 + iota
	kindDelete
	kindDeletePrefix
	kindTxn
	kindTokenCreate
	kindTokenRevoke
	kindNodeJoin
	kindNodeSetRole
	kindNodeSetLeft
	kindCoreGrant
	kindCoreAssign
	kindCoreRetire
	kindCoreSeal
	kindSetCoreSize
	kindSetClusterVersion
	kindSetBundle
	kindProbe
	kindEventAppend
	kindSessionCreate
	kindSessionDestroy
	kindLock
	kindUnlock
	kindNodePlace
	kindCatalogRegister
	kindCatalogDeregister
	kindCoreHold
	kindWriteCanary
	kindOperatorBind
	kindOperatorRemove
	kindKVUndo
	kindKVPurge
	kindRecoverySet
	kindRootPrepare
	kindRootSeal
	kindRootActivate
	kindRootRetire
	kindCARotate
	kindNodeEvict
	kindEntrySet
	kindEntryDelete
	kindJWTKeyPublish
	kindJWTKeyRevoke
	kindSealKeySet
	kindUpstreamPrepare
	kindUpstreamLeave
	kindAdmissionSet
	kindAdmissionDelete
	kindDenySet
	kindDenyRemove
	kindNodeGenerations
	kindNodeTrust

	kindEnd
)

// kindSpec describes a kind: the version of its encoding that Encode writes, and the cluster
// version that introduced it.
type kindSpec struct {
	name    string
	version uint64
	since   uint32
	decode  func(*reader) Command
}

// kinds is indexed by kind.
var kinds = [kindEnd]kindSpec{
	kindPut:               {"put", 1, 1, readPut},
	kindDelete:            {"delete", 1, 1, readDelete},
	kindDeletePrefix:      {"delete prefix", 1, 1, readDeletePrefix},
	kindTxn:               {"txn", 1, 1, readTxn},
	kindTokenCreate:       {"token create", 1, 1, readTokenCreate},
	kindTokenRevoke:       {"token revoke", 1, 1, readTokenRevoke},
	kindNodeJoin:          {"node join", 1, 1, readNodeJoin},
	kindNodeSetRole:       {"node set role", 1, 1, readNodeSetRole},
	kindNodeSetLeft:       {"node set left", 1, 1, readNodeSetLeft},
	kindCoreGrant:         {"core grant", 1, 1, readCoreGrant},
	kindCoreAssign:        {"core assign", 1, 1, readCoreAssign},
	kindCoreRetire:        {"core retire", 1, 1, readCoreRetire},
	kindCoreSeal:          {"core seal", 1, 1, readCoreSeal},
	kindSetCoreSize:       {"set core size", 1, 1, readSetCoreSize},
	kindSetClusterVersion: {"set cluster version", 1, 1, readSetClusterVersion},
	kindSetBundle:         {"set bundle", 1, 1, readSetBundle},
	kindProbe:             {"probe", 1, 1, readProbe},
	kindEventAppend:       {"event append", 1, 1, readEventAppend},
	kindSessionCreate:     {"session create", 1, 1, readSessionCreate},
	kindSessionDestroy:    {"session destroy", 1, 1, readSessionDestroy},
	kindLock:              {"lock", 1, 1, readLock},
	kindUnlock:            {"unlock", 1, 1, readUnlock},
	kindNodePlace:         {"node place", 1, 1, readNodePlace},
	kindCatalogRegister:   {"catalog register", 1, 1, readCatalogRegister},
	kindCatalogDeregister: {"catalog deregister", 1, 1, readCatalogDeregister},
	kindCoreHold:          {"core hold", 1, 1, readCoreHold},
	kindWriteCanary:       {"write canary", 1, 1, readWriteCanary},
	kindOperatorBind:      {"operator bind", 1, 1, readOperatorBind},
	kindOperatorRemove:    {"operator remove", 1, 1, readOperatorRemove},
	kindKVUndo:            {"kv undo", 1, 1, readKVUndo},
	kindKVPurge:           {"kv purge", 1, 1, readKVPurge},
	kindRecoverySet:       {"recovery set", 1, 1, readRecoverySet},
	kindRootPrepare:       {"root prepare", 1, 1, readRootPrepare},
	kindRootSeal:          {"root seal", 1, 1, readRootSeal},
	kindRootActivate:      {"root activate", 1, 1, readRootActivate},
	kindRootRetire:        {"root retire", 1, 1, readRootRetire},
	kindCARotate:          {"ca rotate", 1, 1, readCARotate},
	kindNodeEvict:         {"node evict", 1, 1, readNodeEvict},
	kindEntrySet:          {"entry set", 1, 1, readEntrySet},
	kindEntryDelete:       {"entry delete", 1, 1, readEntryDelete},
	kindJWTKeyPublish:     {"jwt key publish", 1, 1, readJWTKeyPublish},
	kindJWTKeyRevoke:      {"jwt key revoke", 1, 1, readJWTKeyRevoke},
	kindSealKeySet:        {"seal key set", 1, 1, readSealKeySet},
	kindUpstreamPrepare:   {"upstream prepare", 1, 1, readUpstreamPrepare},
	kindUpstreamLeave:     {"upstream leave", 1, 1, readUpstreamLeave},
	kindAdmissionSet:      {"admission set", 1, 1, readAdmissionSet},
	kindAdmissionDelete:   {"admission delete", 1, 1, readAdmissionDelete},
	kindDenySet:           {"deny set", 1, 1, readDenySet},
	kindDenyRemove:        {"deny remove", 1, 1, readDenyRemove},
	kindNodeGenerations:   {"node generations", 1, 1, readNodeGenerations},
	kindNodeTrust:         {"node trust", 1, 1, readNodeTrust},
}

func (Put) kind() kind               { return kindPut }
func (Delete) kind() kind            { return kindDelete }
func (DeletePrefix) kind() kind      { return kindDeletePrefix }
func (Txn) kind() kind               { return kindTxn }
func (TokenCreate) kind() kind       { return kindTokenCreate }
func (TokenRevoke) kind() kind       { return kindTokenRevoke }
func (NodeJoin) kind() kind          { return kindNodeJoin }
func (NodeSetRole) kind() kind       { return kindNodeSetRole }
func (NodeSetLeft) kind() kind       { return kindNodeSetLeft }
func (CoreGrant) kind() kind         { return kindCoreGrant }
func (CoreAssign) kind() kind        { return kindCoreAssign }
func (CoreRetire) kind() kind        { return kindCoreRetire }
func (CoreHold) kind() kind          { return kindCoreHold }
func (CoreSeal) kind() kind          { return kindCoreSeal }
func (SetCoreSize) kind() kind       { return kindSetCoreSize }
func (SetClusterVersion) kind() kind { return kindSetClusterVersion }
func (SetBundle) kind() kind         { return kindSetBundle }
func (Probe) kind() kind             { return kindProbe }
func (SessionCreate) kind() kind     { return kindSessionCreate }
func (SessionDestroy) kind() kind    { return kindSessionDestroy }
func (Lock) kind() kind              { return kindLock }
func (Unlock) kind() kind            { return kindUnlock }
