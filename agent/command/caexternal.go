package command

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/security"
)

func (a *app) caRequestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "csr",
		Short: "Make the request for an authority that your own CA signs",
		Long: "csr prints a certificate request (PEM) for an authority of this cluster below a CA of yours. Its key is made on the core\n" +
			"member that is asked, is kept there, sealed, and asked for again prints the same request until the chain was brought\n" +
			"back to that member with parley ca external. Sign it as a CA with a path length of at least 1 and with its URI.",
		Example: "  parley ca csr > parley.csr",
		Args:    takes(),
		RunE: a.change(func(ctx context.Context, c *client.Client) (answer, error) {
			r, err := c.RequestAuthority(ctx)
			return answer{value: r, table: func(w io.Writer) { _, _ = fmt.Fprint(w, r.Request) }}, err
		}),
	}
}

func (a *app) caResealCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "reseal --recovery-key FILE",
		Short: "Give this host the root again by the recovery key, when no other core member can",
		Long: "A core member whose key is gone, as when its TPM was cleared, is given the root again by another member, by itself.\n" +
			"Where none can open it, this does it with the recovery key of parley init. The key goes to the agent by the admin\n" +
			"socket, is used once, and is kept nowhere.",
		Example: "  parley ca reseal --recovery-key recovery.key",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError("give the file with the key that parley init showed", "parley ca reseal needs --recovery-key")
			}
			key, err := security.ReadRecoveryKey(file)
			if err != nil {
				return usageError("give the file with the key that parley init showed, or that --recovery-recipient was the public half of", "--recovery-key: %w", err)
			}
			text, err := key.PEM()
			if err != nil {
				return err
			}
			if err := a.onThisHost(cmd); err != nil {
				return err
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				err := c.ResealByRecoveryKey(ctx, text)
				return answer{value: map[string]any{"sealed": true}, table: func(w io.Writer) { row(w, "the root is sealed for this host again") }}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVar(&file, "recovery-key", "", "file with the recovery key (PEM), mode 0600")
	return cmd
}

// readChain reads no more than an agent takes, of what may be no file of certificates at all.
func readChain(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	chain, err := io.ReadAll(io.LimitReader(file, security.MaxUpstreamText+1))
	if err == nil && len(chain) > security.MaxUpstreamText {
		err = fmt.Errorf("%s has more than %d bytes, which no chain of certificates needs", path, security.MaxUpstreamText)
	}
	return chain, err
}

// onThisHost refuses an agent that is asked over a network: it would refuse the recovery key too, after it has read it.
func (a *app) onThisHost(cmd *cobra.Command) error {
	addr, err := a.address(cmd)
	if err != nil {
		return err
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme == "unix" {
		return nil // what is no address is refused by connect
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && (err == nil && ip.IsLoopback() || u.Hostname() == "localhost") {
		return nil
	}
	return usageError("run it on the host that needs the root, with --addr unix:///DATA_DIR/admin.sock",
		"the recovery key was not sent to %s: it is to cross no network", addr)
}

func (a *app) caExternalCommand() *cobra.Command {
	var leave bool
	cmd := &cobra.Command{
		Use:   "external [CHAIN]",
		Short: "Use what your own CA has signed, or go back to a root of the cluster's own",
		Long: "external takes a file with the chain (PEM): the certificate for the request of parley ca csr first, the CAs that signed it,\n" +
			"and the root last. It is checked, tried, and refused with the reason if certificates below it would not count. Then\n" +
			"your root comes into the trust bundle of every agent, and once all hold it the authority signs, as with parley ca\n" +
			"rotate. Bring the next one the same way before this one ends: parley ca status says when, and alerts do.\n\n" +
			"With --leave a root of the cluster's own takes its place, by the same rules.",
		Example: "  parley ca external chain.pem\n  parley ca external --leave",
		Args:    takes("[CHAIN]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if leave == (len(args) == 1) {
				return usageError("give the file with the chain, or --leave", "parley ca external takes one of the two")
			}
			if leave {
				return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
					err := c.LeaveAuthority(ctx)
					return answer{value: map[string]any{"asked": true}, table: func(w io.Writer) {
						row(w, "a root of the cluster's own takes the place of the authority; see parley ca status")
					}}, err
				})(cmd, nil)
			}
			chain, err := readChain(args[0])
			if err != nil {
				return usageError("name the file with the chain", "%w", err)
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				at, err := c.UseAuthority(ctx, chain)
				return answer{value: at, table: func(w io.Writer) {
					fields(w, "next authority", at.Subject, "signed by", at.SignedBy, "until", instant(at.NotAfter))
					row(w, "it signs once all agents hold its root; see parley ca status")
				}}, err
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&leave, "leave", false, "go back to a root of the cluster's own")
	return cmd
}
