package state

// The catalog says who offers what where. A node of it is either that of an agent, whose row in
// TableNode is its identity and is never touched from here, or one without an agent, which somebody
// registered: TableCatalogNode. Services and checks hang on either.
//
// What of the catalog can be looked for has an index row that stays when its last member goes: see
// catalogindex.go.

// Pair is one entry of what is a map for clients. Lists of them are sorted by key, each key once, so
// that equal maps are equal bytes.
type Pair struct{ Key, Value string }

// TaggedAddress is an address under a name, such as "lan". Lists of them are as those of Pair.
type TaggedAddress struct {
	Name    string
	Address string
	Port    int
}

// CatalogNode is a node without an agent. Owner is the caller that last changed it. Agent is set in
// the answers of a transaction for a node that has one: of that only the name, the id and the address
// of its join are known here.
type CatalogNode struct {
	Name            string
	ID              string // the text of a UUID, or ""
	Address         string
	TaggedAddresses []Pair
	Meta            []Pair
	Owner           string
	CreateRevision  uint64
	ModRevision     uint64
	Agent           bool
}

// CatalogService is one instance of a service. Its id is unique on its node.
type CatalogService struct {
	Node              string
	ID                string
	Name              string
	Tags              []string
	Address           string // "" for the node's
	Port              int
	SocketPath        string
	TaggedAddresses   []TaggedAddress
	Meta              []Pair
	PassingWeight     int
	WarningWeight     int
	EnableTagOverride bool
	Owner             string
	CreateRevision    uint64
	ModRevision       uint64
}

// A CheckStatus is how a check stands.
type CheckStatus string

const (
	CheckPassing  CheckStatus = "passing"
	CheckWarning  CheckStatus = "warning"
	CheckCritical CheckStatus = "critical"
)

// CatalogCheck is a health check of a node, or of one service on it. Somebody else runs it and writes
// what came out: Type and Definition are kept for clients and not interpreted. ServiceName and
// ServiceTags are those of the service, filled in when the check is read.
type CatalogCheck struct {
	Node           string
	ID             string
	Name           string
	Status         CheckStatus
	Notes          string
	Output         string
	ServiceID      string // "" for a check of the node
	Type           string
	Definition     []byte
	Owner          string
	CreateRevision uint64
	ModRevision    uint64
	ServiceName    string
	ServiceTags    []string
}

// AgentCheck is the check that every node with an agent has: whether gossip holds it alive. Each agent
// judges that for itself, so it is never in the state, and cannot be written.
const AgentCheck = "serfHealth"

// CatalogRegister sets a service, and checks, on a node, as one step. With Node it makes or changes a
// node without an agent first; it is an error if the node has an agent whose id is another, or when
// nothing would be left to do. What is the same already is not written again.
type CatalogRegister struct {
	Name    string       // of the node
	Node    *CatalogNode // nil leaves the node as it is, which must exist then
	Keep    bool         // Node counts only if there is no such node yet
	Service *CatalogService
	Checks  []CatalogCheck
}

// CatalogDeregister removes one check, one service with its checks, or, when both are empty, a node
// without an agent with everything on it. What is not there is no error.
type CatalogDeregister struct {
	Node    string
	Service string
	Check   string
}

// Limits of the catalog, part of the meaning of version 1 of its commands.
const (
	MaxCatalogNodes    = 1 << 14 // nodes without an agent
	MaxServices        = 1 << 17 // service instances
	MaxChecks          = 1 << 18 // checks
	MaxNodeServices    = 1 << 12 // instances on one node
	MaxNodeChecks      = 1 << 13 // checks on one node
	MaxRegisterChecks  = 128     // checks that one command sets
	MaxTags            = 64      // tags of an instance
	MaxMetaPairs       = 64      // metadata of a node or an instance
	MaxTaggedAddresses = 16      // of a node or an instance
	MaxWeight          = 1 << 16 // weights are 0 to this

	MaxServiceNameBytes = 255 // names and ids of services, and tags
	MaxMetaKeyBytes     = 128
	MaxMetaValueBytes   = 512
	MaxSocketPathBytes  = 256
	MaxCheckTypeBytes   = 32
	MaxNotesBytes       = 1 << 10
	MaxOutputBytes      = 4 << 10 // a check's output: it is replicated
	MaxDefinitionBytes  = 8 << 10

	// MaxCatalogTraces bounds the index rows of the catalog. There are always fewer members than that, so that
	// beyond it some stand for nothing any more.
	MaxCatalogTraces = 1 << 18
)

// The number of a status on the wire is its place here.
var checkStatuses = []CheckStatus{CheckPassing, CheckWarning, CheckCritical}

func (CatalogRegister) kind() kind   { return kindCatalogRegister }
func (CatalogDeregister) kind() kind { return kindCatalogDeregister }
