package command

import (
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/parley-mesh/parley/agent"
	"github.com/parley-mesh/parley/agent/config"
	"github.com/parley-mesh/parley/security"
)

// initAnswer is the JSON of `parley init`.
type initAnswer struct {
	ClusterID   string `json:"cluster_id"`
	TrustDomain string `json:"trust_domain"`
	Name        string `json:"name"`
	SPIFFEID    string `json:"spiffe_id"`
	RootHash    string `json:"root_hash"`
	DataDir     string `json:"data_dir"`
	Recovery    string `json:"recovery"`               // shown, recipient or none
	RecoveryKey string `json:"recovery_key,omitempty"` // PEM; it is nowhere else
}

// The values of Recovery.
const (
	recoveryShown     = "shown"
	recoveryRecipient = "recipient"
	recoveryNone      = "none"
)

// noRecovery says what --no-recovery costs.
const noRecovery = "There is no recovery key: when all disks of the core are gone, a backup does not bring this cluster's root back.\n" +
	"Every agent would have to join a new cluster."

func (a *app) initCommand() *cobra.Command {
	var opts agent.InitOptions
	var file, recipient string
	cmd := &cobra.Command{
		Use:   "init --trust-domain TD",
		Short: "Found a new cluster, once, on its first host",
		Long: "Init makes a new cluster in the data directory: its id, its root of trust, and this agent's identity.\n" +
			"It refuses a data directory that already belongs to a cluster. Other hosts do not run init; they join\n" +
			"with a token. With --config it takes name, zone, data_dir and mesh.advertise from the file that the agent\n" +
			"will read; flags win. Run it as the user that the agent will run as.\n\n" +
			"It also makes the recovery key, which opens the root when all hosts of the core are gone: with it and a backup,\n" +
			"parley snapshot restore --recovery-key brings the cluster back on a new host. It is shown once and kept nowhere.\n" +
			"Put it where no host of the cluster can read it, or make the key there and give init its public half.",
		Example: "  parley init --trust-domain prod.example.com\n" +
			"  parley init --trust-domain prod.example.com --config /etc/parley/parley.toml --data-dir /var/lib/parley\n" +
			"  openssl genpkey -algorithm X25519 -out recovery.key && openssl pkey -in recovery.key -pubout -out recovery.pub\n" +
			"  parley init --trust-domain prod.example.com --recovery-recipient recovery.pub",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.TrustDomain == "" {
				return usageError("a name that is yours, like --trust-domain prod.example.com; it stands in every identity and cannot be changed",
					"parley init needs --trust-domain")
			}
			if recipient != "" {
				text, err := os.ReadFile(recipient)
				if err == nil {
					opts.RecoveryRecipient, err = security.ParseRecoveryRecipient(text)
				}
				if err != nil {
					return usageError("make one: openssl genpkey -algorithm X25519 -out recovery.key; openssl pkey -in recovery.key -pubout -out recovery.pub",
						"--recovery-recipient %s: %w", recipient, err)
				}
			}
			return a.runInit(cmd, opts, file)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file of the agent to be")
	cmd.Flags().StringVar(&opts.TrustDomain, "trust-domain", "", "the cluster's SPIFFE trust domain")
	cmd.Flags().StringVar(&opts.Name, "name", "", "this agent's name (default that of --config, else the host name)")
	cmd.Flags().StringVar(&recipient, "recovery-recipient", "", "file with the public half of your own recovery key (X25519, PEM)")
	cmd.Flags().BoolVar(&opts.NoRecovery, "no-recovery", false, "make no recovery key: if all disks of the core are lost, so is the cluster")
	cmd.Flags().StringVar(&opts.Zone, "zone", "", "failure domain of this host")
	return cmd
}

func (a *app) runInit(cmd *cobra.Command, opts agent.InitOptions, file string) error {
	cfg, err := config.Load(file, given(
		config.Override{Key: "data_dir", Value: a.dataDir, Source: "--data-dir"},
		config.Override{Key: "name", Value: opts.Name, Source: "--name"},
		config.Override{Key: "zone", Value: opts.Zone, Source: "--zone"})...)
	if err != nil {
		return err
	}
	opts.Name, opts.Zone, opts.DataDir = cfg.Name, cfg.Zone, cfg.DataDir
	opts.IdentitySource = cfg.Identity.Source
	opts.SegmentMiB, opts.Log = cfg.Core.SegmentMiB, zap.NewNop()
	opts.Keys = security.KeyStoreOptions{Kind: cfg.Identity.KeyStore, Device: cfg.Identity.TPM}
	if file != "" {
		opts.Address = cfg.Mesh.Advertise
	}
	if opts.Name == "" {
		if opts.Name, err = config.HostName(); err != nil {
			return usageError("add --name", "%w", err)
		}
	}
	made, err := agent.Init(cmd.Context(), opts)
	if err != nil {
		return err
	}
	result := initAnswer{
		ClusterID: made.ClusterID, TrustDomain: made.TrustDomain, Name: made.Node,
		SPIFFEID: made.SPIFFEID, RootHash: made.RootHash, DataDir: cfg.DataDir,
		Recovery: recoveryShown, RecoveryKey: string(made.RecoveryKey),
	}
	switch {
	case opts.NoRecovery:
		result.Recovery = recoveryNone
	case opts.RecoveryRecipient != nil:
		result.Recovery = recoveryRecipient
	}
	return a.say(cmd, answer{value: result, table: func(w io.Writer) {
		fields(w, "cluster", result.ClusterID, "trust domain", result.TrustDomain, "name", result.Name,
			"identity", result.SPIFFEID, "root", result.RootHash, "data", result.DataDir)
		switch result.Recovery {
		case recoveryShown:
			row(w, "\nThe recovery key. It is shown once and kept nowhere: put it where no host of the cluster can read it. With it and a")
			row(w, "backup, parley snapshot restore --recovery-key FILE brings the cluster back when all disks of the core are gone.\n")
			row(w, strings.TrimSuffix(result.RecoveryKey, "\n"))
		case recoveryRecipient:
			fields(w, "recovery", "sealed for the key of --recovery-recipient")
		case recoveryNone:
			row(w, "\n"+noRecovery)
		}
		row(w, "\n"+nextStep(os.Geteuid()))
		row(w, "  parley agent"+configFlag(file)+a.dataDirFlag())
	}})
}

// nextStep says who starts the agent: the directory is this user's now, and only they can run in it.
func nextStep(uid int) string {
	if uid == 0 {
		return "Next, start the agent:"
	}
	return "Next, start the agent, as this user (a service: systemctl start parley):"
}

// configFlag repeats --config in a command that we suggest.
func configFlag(file string) string {
	if file == "" {
		return ""
	}
	return " --config " + shellQuote(file)
}

// given drops the overrides that were not given.
func given(all ...config.Override) []config.Override {
	var list []config.Override
	for _, o := range all {
		if o.Value != "" {
			list = append(list, o)
		}
	}
	return list
}

// dataDirFlag repeats --data-dir in a command that we suggest.
func (a *app) dataDirFlag() string {
	if a.dataDir == "" {
		return ""
	}
	return " --data-dir " + shellQuote(a.dataDir)
}
