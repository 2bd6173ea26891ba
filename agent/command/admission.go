package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// maxAuthorities bounds the file that is sent, in bytes.
const maxAuthorities = 32 << 10

func (a *app) admissionCommand() *cobra.Command {
	cmd := group("admission", "Hosts that join by a certificate of an authority of yours, without a token")
	cmd.AddCommand(a.admissionAddCommand(), a.admissionListCommand(), a.admissionRemoveCommand())
	return cmd
}

func (a *app) admissionAddCommand() *cobra.Command {
	spec := client.AdmissionSpec{}
	var file string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Say whose certificates admit which hosts",
		Long: "A host that shows a certificate by one of the authorities, and has its key, joins by the name in the certificate: an\n" +
			"X.509 certificate's DNS names or its common name, an OpenSSH host certificate's principals, without --suffix. The\n" +
			"name has to fit --names, where * stands for any characters, and belongs to the first host that comes by it: who\n" +
			"takes over a name needs a token (parley token create --replace). On the host:\n\n" +
			"  [attest]\n" +
			"  kind = \"ssh\"\n" +
			"  cert_file = \"/etc/ssh/ssh_host_ed25519_key-cert.pub\"\n" +
			"  key_file = \"/etc/ssh/ssh_host_ed25519_key\"\n" +
			"  trust_domain = \"example.org\"\n" +
			"  roots = [\"the hash that parley ca status prints\"]",
		Example: "  parley admission add fleet --kind x509 --authorities ca.pem --names 'web-*' --suffix .example.org\n" +
			"  parley admission add ssh --kind ssh --authorities /etc/ssh/ssh_known_hosts_ca --names '*' --role local",
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if spec.Kind == "" || file == "" || spec.Names == "" {
				return usageError("like --kind x509 --authorities ca.pem --names 'web-*'", "an admission needs --kind, --authorities and --names")
			}
			text, err := readAuthorities(file)
			if err != nil {
				return err
			}
			spec.Authorities = text
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				made, err := c.SetAdmission(ctx, spec)
				return answer{value: made, table: func(w io.Writer) {
					row(w, fmt.Sprintf("hosts named %s%s join by certificates of %s", made.Names, made.Suffix, strings.Join(made.Authorities, ", ")))
				}}, err
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Kind, "kind", "", "what hosts show: x509 or ssh")
	flags.StringVar(&file, "authorities", "", "file with the authorities: certificates (PEM), or public keys of SSH")
	flags.StringVar(&spec.Names, "names", "", "which nodes may join: a name, in which each * stands for any characters")
	flags.StringVar(&spec.Suffix, "suffix", "", "end of the names in certificates that is no part of the node's name, like .example.org")
	flags.StringVar(&spec.Role, "role", "", "what the new agents may do through the cluster: none, discovery, local or operator (default discovery, with --core operator)")
	flags.BoolVar(&spec.Core, "core", false, "also allow them into the core, with the role operator")
	flags.BoolVar(&spec.Replace, "replace", false, "write an admission that exists anew")
	return cmd
}

// readAuthorities reads no more than an agent takes.
func readAuthorities(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(file, maxAuthorities+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxAuthorities {
		return "", usageError("give the file with the authorities alone", "%s has more than %d bytes", path, maxAuthorities)
	}
	return string(text), nil
}

func (a *app) admissionListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Whose certificates admit which hosts",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			all, err := c.Admissions(ctx)
			return answer{value: list(all), table: func(w io.Writer) {
				row(w, "NAME", "KIND", "NAMES", "SUFFIX", "ROLE", "CORE", "AUTHORITIES")
				for _, m := range all {
					row(w, m.Name, m.Kind, m.Names, m.Suffix, m.Role, yesNo(m.Core), strings.Join(m.Authorities, " "))
				}
			}}, err
		}),
	}
}

func (a *app) admissionRemoveCommand() *cobra.Command {
	return a.removing(&cobra.Command{
		Use:   "remove NAME",
		Short: "End an admission; agents that have joined by it stay",
		Long: "No host gets a token by it from then on. One that has got its token just now may use it for two minutes more. To\n" +
			"shut out a host that has joined: parley evict.",
		Example: "  parley admission remove fleet --dry-run",
	}, removal{
		kind: "admission",
		radius: func(ctx context.Context, c *client.Client, name string) (string, error) {
			all, err := c.Admissions(ctx)
			if err != nil {
				return "", err
			}
			for _, m := range all {
				if m.Name == name {
					return fmt.Sprintf("hosts named %s%s join no more by certificates of %s", m.Names, m.Suffix, strings.Join(m.Authorities, ", ")), nil
				}
			}
			return "", &failure{code: exitFailed, err: fmt.Errorf("there is no admission %q", name), hint: "list them: parley admission list"}
		},
		remove: func(ctx context.Context, c *client.Client, name string) error { return c.RemoveAdmission(ctx, name) },
	})
}
