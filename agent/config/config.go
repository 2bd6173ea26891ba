// Package config is the one configuration file of an agent: TOML, strict, with every default in it.
//
// The common case is
//
//	cfg, err := config.Load("/etc/parley/parley.toml")
//
// which reads the file over the defaults, fills in what depends on the host, and checks everything. All
// problems are reported at once, in a *ProblemsError; an unknown key is a problem that names the nearest
// key. Flags go through Load as overrides, so that they are parsed and checked like the file.
//
// A setting is one struct field below: its comment becomes the comment in the example file, its tags
// give key, default, an example where the default is empty, and check. Nothing else has to be edited.
//
// The functions hold no state and are safe for concurrent use; a Config is a plain value.
package config

import "time"

// Config is the configuration of one agent. The comments on its fields are the ones that people read in
// the example file, so they address the operator.
type Config struct {
	// Directory for this agent's identity, log and snapshots. It has to belong to the user that the agent
	// runs as. Empty: /var/lib/parley as root, otherwise parley under $XDG_STATE_HOME (or ~/.local/state):
	// a service with a user of its own sets it here or, like deploy/parley.service, by --data-dir.
	DataDir string `toml:"data_dir" example:"/var/lib/parley"`

	// This agent's name: 1 to 63 of a-z, 0-9, dot, dash and underscore. It is fixed when the agent is
	// initialized or joins. Empty: the name that the data directory holds, else the host name.
	Name string `toml:"name" example:"node-1" check:"name"`

	// Failure domain of this host. The core spreads its voters over zones.
	Zone string `toml:"zone" example:"rack-1" check:"name"`

	// Defaults for a situation: default, or beside-consul for a host on which a Consul agent runs, which
	// serves http on 127.0.0.1:18500 and dns on 127.0.0.1:18600, unless other addresses are set below.
	Profile string `toml:"profile" default:"default" check:"oneof:default beside-consul"`

	// Mesh addresses of agents to join by. Used until this agent has joined, and afterwards to find the
	// others again.
	Join []string `toml:"join" example:"10.0.0.1:8310" check:"peers"`

	// File that holds the join token. Ignored once this agent has joined, so it may stay here.
	TokenFile string `toml:"token_file" example:"/etc/parley/token"`

	// How this host proves who it is when it joins without a token.
	Attest Attest `toml:"attest"`

	// Token is the join token itself, from a flag. It is never read from the file.
	Token string `toml:"-"`

	// Where agents reach each other: mutual TLS on one port number, UDP and TCP.
	Mesh Mesh `toml:"mesh"`

	// The API for programs on this host.
	HTTP HTTP `toml:"http"`

	// The same API for other hosts, by mutual TLS.
	HTTPS HTTPS `toml:"https"`

	// The /v1 endpoints for existing clients.
	Dialect Dialect `toml:"dialect"`

	// Name service.
	DNS DNS `toml:"dns"`

	// The Raft core that the agents elect among themselves.
	Core Core `toml:"core"`

	// What a member of the core keeps on its disk.
	Storage Storage `toml:"storage"`

	// Backups that this agent takes by itself.
	Backup Backup `toml:"backup"`

	// Sessions, which hold locks.
	Session Session `toml:"session"`

	// Certificates.
	Identity Identity `toml:"identity"`

	// Failure detection.
	Gossip Gossip `toml:"gossip"`

	// What this agent keeps for who looks for a mistake.
	Debug Debug `toml:"debug"`

	// What the agent leaves out while it ends badly again and again.
	SafeMode SafeMode `toml:"safe_mode"`

	// How the agent watches itself.
	Ops Ops `toml:"ops"`

	// Logging, to standard error.
	Log Log `toml:"log"`
}

// Attest configures how a host joins by a certificate that an authority outside of the cluster has given it.
type Attest struct {
	// What this host shows: token, a join token; x509, a certificate below an authority that an admission of the cluster names
	// (parley admission add); or ssh, an OpenSSH host certificate. It does not matter once this agent has joined.
	Kind string `toml:"kind" default:"token" check:"oneof:token x509 ssh"`

	// The certificate: PEM, with those between it and its authority, or like ssh_host_ed25519_key-cert.pub. Its name is the name
	// that this agent gets.
	CertFile string `toml:"cert_file" example:"/etc/ssh/ssh_host_ed25519_key-cert.pub" check:"absolute"`

	// Its private key.
	KeyFile string `toml:"key_file" example:"/etc/ssh/ssh_host_ed25519_key" check:"absolute"`

	// The trust domain of the cluster.
	TrustDomain string `toml:"trust_domain" example:"example.org"`

	// Hashes of the cluster's roots, as parley init and parley ca status print them. Nothing is sent to an agent
	// that is not below one of them.
	Roots []string `toml:"roots" example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
}

// Mesh configures the port that agents use among themselves.
type Mesh struct {
	// Address of the mesh port.
	Bind string `toml:"bind" default:"0.0.0.0:8310" check:"listen"`

	// Address that other agents use to reach this one. Empty: the bind address, or this host's first
	// address that is not loopback when all are bound.
	Advertise string `toml:"advertise" example:"10.0.0.1:8310" check:"advertise"`
}

// HTTP configures the API for programs on the same host.
type HTTP struct {
	// A loopback address, or a socket as unix:///path. Anything else is refused: callers need no
	// identity here.
	Bind string `toml:"bind" default:"127.0.0.1:8500" check:"local"`

	// What a caller without an identity may do: none, discovery, local or operator.
	AnonymousRole string `toml:"anonymous_role" default:"discovery" check:"oneof:none discovery local operator"`

	// Bridge interfaces to serve besides loopback. They need API tokens, which this release does not
	// have, so the list has to stay empty.
	AllowInterfaces []string `toml:"allow_interfaces" example:"docker0" check:"interfaces"`
}

// HTTPS configures the API for other hosts.
type HTTPS struct {
	// Address to serve on, such as 0.0.0.0:8501. Empty: off.
	Bind string `toml:"bind" example:"0.0.0.0:8501" check:"listen"`
}

// Dialect configures the /v1 endpoints.
type Dialect struct {
	// The name of the one datacenter that /v1 shows. Clients may name it with ?dc.
	Datacenter string `toml:"datacenter" default:"dc1" check:"name"`
}

// DNS configures the name service.
type DNS struct {
	// Address of the name service. Checked here, but served by a later release only.
	Bind string `toml:"bind" default:"127.0.0.1:8600" check:"listen"`
}

// Core configures this agent's part in the Raft core.
type Core struct {
	// Whether this agent may be elected into the core when the cluster allows it.
	Eligible bool `toml:"eligible" default:"true"`

	// How long a core member has to be dead before another agent takes its place. Shorter replaces
	// members that only reboot, longer runs on a smaller margin.
	ReplaceAfter time.Duration `toml:"replace_after" default:"10m" check:"between:1s 24h"`

	// While two agents are all there is, one votes and one learns. Acknowledge a write only once the
	// learner's disk has it too, for as long as the learner is alive. Off: a lost voter takes writes along.
	PairSync bool `toml:"pair_sync" default:"true"`

	// Whether this agent passes on what core members say to each other when their direct link is gone, and is
	// reached that way itself. Only the two can make what is passed on. Off: where no member that could lead
	// is heard by a majority there is no leader, until the network is mended.
	Relay bool `toml:"relay" default:"true"`

	// Whether this agent, while it leads, answers reads by a lease: without asking the others, for at most 270 ms
	// after a majority answered it. Off: it asks them for each read, or for all that wait. Turn it off on a virtual
	// machine whose clock its hypervisor can freeze.
	LeaseReads bool `toml:"lease_reads" default:"true"`

	// Whether this agent hands the lead over when its disk or its processor is too slow to lead and another voter
	// is much faster. The time that a sync may take is half of an election timeout.
	Yield bool `toml:"yield" default:"true"`

	// Raft's unit of time. The leader sends heartbeats every two ticks.
	Tick time.Duration `toml:"tick" default:"50ms" check:"between:10ms 1s"`

	// Ticks without a leader before an election. All agents should use the same tick and ticks.
	ElectionTicks int `toml:"election_ticks" default:"10" check:"range:5 100"`

	// How often the members of the core compare their states while something is written. Shorter finds a member
	// whose memory is wrong sooner, and takes up to 20 ms of each member's time each time.
	CheckpointEvery time.Duration `toml:"checkpoint_every" default:"5s" check:"between:100ms 1h"`

	// Size of a segment of the log in MiB, written with zeros before it is used: smaller starts sooner and
	// takes less disk, larger is cut less often.
	SegmentMiB int `toml:"segment_mib" default:"64" check:"range:16 1024"`
}

// Storage configures the files of a member of the core.
type Storage struct {
	// MiB that stay free: with less this agent takes no writes while it leads, and hands the lead to a voter
	// that has room. At most a twentieth of the file system counts. 0: no floor, writes stop on a full disk.
	FloorMiB int `toml:"floor_mib" default:"256" check:"range:0 1048576"`
}

// Backup configures the backups that this agent takes while it is a member of the core.
type Backup struct {
	// Directory for them, not on the disk of data_dir. Each is verified by restoring it in memory before it
	// gets its name. Empty: none are taken.
	Dir string `toml:"dir" example:"/backup/parley" check:"absolute"`

	// How often one is taken. What was written since the last one is lost with the whole core.
	Every time.Duration `toml:"every" default:"1h" check:"between:10s 168h"`

	// How many are kept here; the oldest goes first.
	Keep int `toml:"keep" default:"24" check:"range:1 10000"`
}

// Session configures when this agent, while it leads, ends sessions.
type Session struct {
	// How long a node has to be silent, and dead by gossip, before its sessions without a TTL end. Shorter
	// frees the locks of a dead host sooner, longer lets a host reboot and keep them.
	NodeGrace time.Duration `toml:"node_grace" default:"60s" check:"between:1s 24h"`
}

// Identity configures this agent's certificate.
type Identity struct {
	// Who certifies the agents of the cluster: built-in, the cluster itself, or workload-api, an authority outside of it such as
	// SPIRE, by the Workload API of each host. It is a choice for the whole cluster, made before parley init, for good. With
	// workload-api that authority has to give each agent spiffe://TRUST_DOMAIN/parley/agent/NAME, and certifies programs
	// as well: workload_socket, bundle_endpoint, federate_with and https.bind are refused. Operators work on the hosts.
	Source string `toml:"source" default:"built-in" check:"oneof:built-in workload-api"`

	// Address of that Workload API, for source workload-api alone.
	WorkloadAPI string `toml:"workload_api" example:"unix:///run/spire/sockets/agent.sock" check:"unix"`

	// Where the key is that opens the cluster's root on this host, if it is a core member: file, in the data directory,
	// or tpm, in a TPM 2.0, which it never leaves. Either can be changed to the other at a restart.
	KeyStore string `toml:"key_store" default:"file" check:"oneof:file tpm"`

	// The TPM: a device, or the Unix socket of one in software. The user that the agent runs as has to be allowed to
	// open it, most often by the group tss.
	TPM string `toml:"tpm" default:"/dev/tpmrm0" check:"absolute"`

	// Life of this agent's certificate. It is renewed at half of it.
	LeafTTL time.Duration `toml:"leaf_ttl" default:"1h" check:"between:10s 24h"`

	// How long a core member signs for programs while it hears nothing of a majority.
	Island time.Duration `toml:"island" default:"72h" check:"between:1m 720h"`
	// Unix socket at which programs of this host ask for their identities: the SPIFFE Workload API, and Envoy's
	// secret discovery. Empty: /run/parley/workload.sock for the agent with the host's default data directory,
	// workload.sock in the data directory for others. off: there is none.
	WorkloadSocket string `toml:"workload_socket" example:"/run/parley/workload.sock" check:"socket"`

	// Address at which other trust domains fetch this one's bundle. Empty: off.
	BundleEndpoint string `toml:"bundle_endpoint" example:"0.0.0.0:8443" check:"listen"`

	// PEM file with the certificate by which the bundle endpoint proves itself to clients of the profile https_web. It
	// is read again when it changes. Empty: by this agent's SPIFFE ID, the profile https_spiffe.
	BundleCertFile string `toml:"bundle_cert_file" example:"/etc/parley/bundle.pem" check:"absolute"`

	// PEM file with the key of that certificate.
	BundleKeyFile string `toml:"bundle_key_file" example:"/etc/parley/bundle.key" check:"absolute"`

	// Trust domains whose bundles are fetched, for the programs whose entries name them, as "TRUST_DOMAIN https_web URL" or
	// "TRUST_DOMAIN https_spiffe URL SPIFFE_ID FILE", where FILE has the bundle that is trusted at first.
	FederateWith []string `toml:"federate_with" example:"partner.example https_web https://bundle.partner.example/" check:"federation"`
}

// Gossip configures failure detection.
type Gossip struct {
	// Timing: lan for a network, fast for agents on one machine.
	Profile string `toml:"profile" default:"lan" check:"oneof:lan fast"`
}

// Debug configures what this agent keeps of what it did.
type Debug struct {
	// Memory, in MiB, for the newest inputs of the core on this host, lengths in place of what is written: what led to a
	// violation can then be replayed. 0: none, and a mistake that happens once stays a mystery.
	RecorderMiB int `toml:"recorder_mib" default:"16" check:"range:0 128"`

	// How many of the last seconds of the Go runtime are kept, for debug bundles: who ran, who waited, and for what.
	// 0: none. It costs some of the processor all the time.
	FlightSeconds int `toml:"flight_seconds" default:"0" check:"range:0 60"`
}

// SafeMode configures the ladder of safe modes.
type SafeMode struct {
	// So many starts after an end that was not clean within this time make the agent leave something out: 3 its own
	// initiative, 5 the core, 8 all but the admin socket. It does all again after as long without another one.
	// Shorter than ten minutes is for tests.
	Window time.Duration `toml:"window" default:"10m" check:"between:100ms 24h"`
}

// Ops configures how the agent watches itself.
type Ops struct {
	// For labs only: how many times faster than on a clock the windows and waits of alerts pass. More
	// than 1 is refused unless mesh.bind is a loopback address.
	TimeScale int `toml:"time_scale" default:"1" check:"range:1 100"`
}

// Log configures what the agent writes to standard error.
type Log struct {
	// One of debug, info, warn and error.
	Level string `toml:"level" default:"info" check:"oneof:debug info warn error"`

	// console reads like sentences, json is for machines.
	Format string `toml:"format" default:"console" check:"oneof:console json"`
}

// Default returns the configuration of an empty file, before anything that depends on the host is filled
// in. The example file holds exactly these values.
func Default() Config {
	var c Config
	for _, f := range fields(&c) {
		if text, ok := f.tag.Lookup("default"); ok {
			if err := f.parse(text); err != nil {
				panic("config: default of " + f.key + ": " + err.Error())
			}
		}
	}
	return c
}
