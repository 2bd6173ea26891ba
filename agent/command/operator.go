package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
	"github.com/parley-mesh/parley/clock"
	"github.com/parley-mesh/parley/security"
)

// identityVariable names the directory of an identity when --identity does not.
const identityVariable = "PARLEY_IDENTITY"

func (a *app) operatorCommand() *cobra.Command {
	cmd := group("operator", "Identities of people and programs that are no agents")
	cmd.AddCommand(a.operatorAddCommand(), a.operatorListCommand(), a.operatorShowCommand(), a.operatorRenewCommand(), a.operatorRemoveCommand())
	return cmd
}

// operatorAdd is what the flags of operator add say.
type operatorAdd struct {
	name, role, out string
	replace, dryRun bool
}

func (a *app) operatorAddCommand() *cobra.Command {
	add := operatorAdd{}
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make the identity of a person or a program, and its first certificate",
		Long: "The key is made here and never leaves --out; the cluster binds its hash to the name. --out holds svid.pem,\n" +
			"key.pem and bundle.pem, for their owner alone. The certificate lasts an hour; commands and api/client renew it\n" +
			"by themselves at half of that. Nobody may give a role above the own. The same command may be run again, such\n" +
			"as after an outage: it goes on with the key in --out.",
		Example: "  parley operator add eve --role operator --out ~/.parley\n" +
			"  parley --identity ~/.parley --addr https://10.0.0.7:8501 status\n" +
			"  parley operator add ci --role local --replace --out /etc/ci/parley",
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			add.name = args[0]
			if add.role == "" {
				return usageError("like parley operator add eve --role local", "say what %s may do with --role: discovery, local or operator", add.name)
			}
			if err := security.CheckNodeName(add.name); err != nil {
				return usageError("like eve, or ci.deploy", "%q cannot be an operator's name: %w", add.name, err)
			}
			if add.out == "" {
				add.out = "parley-" + add.name
			}
			if add.dryRun {
				return a.query(add.look)(cmd, nil)
			}
			return a.change(add.run)(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&add.role, "role", "", "what it may do: discovery, local or operator")
	flags.StringVar(&add.out, "out", "", "directory for its key and certificate (default parley-NAME here)")
	flags.BoolVar(&add.replace, "replace", false, "bind a name that exists to a new key or role; its old key counts no more")
	flags.BoolVar(&add.dryRun, "dry-run", false, "only say what would happen")
	return cmd
}

// look says what add would do, and why it would be refused as far as that can be seen without doing it.
func (o operatorAdd) look(ctx context.Context, c *client.Client) (answer, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return answer{}, err
	}
	old, err := c.Operator(ctx, o.name)
	exists := err == nil
	if err != nil && !isNotFound(err) {
		return answer{}, err
	}
	text := fmt.Sprintf("%s becomes an operator of %s with the role %s; its key is made in %s", o.name, status.TrustDomain, o.role, o.out)
	switch {
	case exists && !o.replace:
		text = fmt.Sprintf("%s is an operator already, with the role %s: refused unless --out holds its key, or with --replace", o.name, old.Role)
	case exists:
		text = fmt.Sprintf("%s, whose role is %s, is bound anew with the role %s: unless --out holds its key, its old certificate counts no more, "+
			"and its open connections are closed", o.name, old.Role, o.role)
	case o.replace:
		text = fmt.Sprintf("there is no operator %s to replace: refused", o.name)
	}
	value := map[string]any{"name": o.name, "role": o.role, "dir": o.out, "exists": exists, "dry_run": true}
	return answer{value: value, table: func(w io.Writer) { row(w, text) }}, nil
}

func (o operatorAdd) run(ctx context.Context, c *client.Client) (answer, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return answer{}, err
	}
	id, err := client.NewIdentity(o.out, status.TrustDomain, o.name)
	if err != nil {
		return answer{}, &failure{code: exitFailed, err: err, hint: "give another directory with --out"}
	}
	csr, err := id.Request()
	if err != nil {
		return answer{}, err
	}
	svid, err := c.AddOperator(ctx, csr, o.role, o.replace)
	if err != nil {
		return answer{}, err
	}
	if err := id.Take(svid); err != nil {
		return answer{}, &failure{code: exitFailed, err: fmt.Errorf("%s is an operator now, but its certificate cannot be used: %w", o.name, err),
			hint: "mend what the error names and run the same command again"}
	}
	dir := absolute(o.out)
	return answer{value: operatorValue(id, svid.Role, dir), table: func(w io.Writer) {
		row(w, fmt.Sprintf("%s is %s, with the role %s, until %s", o.name, id.ID(), svid.Role, instant(id.NotAfter())))
		row(w, "\nIts key and certificate are in "+dir+". Use them over https or with api/client:\n")
		row(w, "  export "+identityVariable+"="+shellQuote(dir))
		row(w, "  parley --addr https://HOST:8501 status")
		row(w, "\nCommands renew it when they run; what lapsed is renewed by way of an agent on this host: parley operator renew")
	}}, nil
}

func operatorValue(id *client.Identity, role, dir string) map[string]any {
	return map[string]any{"name": id.Name(), "spiffe_id": id.ID(), "role": role, "not_after": id.NotAfter().UTC(), "dir": dir}
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func (a *app) operatorListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The operators, and what each may do",
		Args:  takes(),
		RunE: a.query(func(ctx context.Context, c *client.Client) (answer, error) {
			all, err := c.Operators(ctx)
			return answer{value: list(all), table: func(w io.Writer) {
				row(w, "NAME", "ROLE", "ADDED", "BY", "GENERATION", "KEY SHA-256")
				for _, o := range all {
					row(w, o.Name, o.Role, instant(o.CreatedAt), o.CreatedBy, strconv.FormatUint(o.Generation, 10), o.KeySHA256)
				}
			}}, err
		}),
	}
}

func (a *app) operatorShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "One operator",
		Args:  takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.query(func(ctx context.Context, c *client.Client) (answer, error) {
				o, err := c.Operator(ctx, args[0])
				return answer{value: o, table: func(w io.Writer) {
					fields(w, "name", o.Name, "identity", o.SPIFFEID, "role", o.Role, "added", instant(o.CreatedAt), "by", o.CreatedBy,
						"generation", o.Generation, "key sha-256", o.KeySHA256)
				}}, err
			})(cmd, nil)
		},
	}
}

func (a *app) operatorRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Get a new certificate for the identity in --identity",
		Long: "The key proves itself, so any agent will do. One whose certificate has lapsed opens no https connection: ask an\n" +
			"agent on the same host, by its admin socket or http. Who was removed gets none, and without a leader nobody does.",
		Example: "  parley operator renew --identity ~/.parley --addr http://127.0.0.1:8500",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := a.identityDir()
			if dir == "" {
				return usageError("like parley operator renew --identity DIR", "say whose certificate to renew with --identity or $%s", identityVariable)
			}
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) { return renewOperator(ctx, c, dir) })(cmd, nil)
		},
	}
}

func renewOperator(ctx context.Context, c *client.Client, dir string) (answer, error) {
	id, err := client.LoadIdentity(dir)
	if err != nil {
		return answer{}, identityFailure(dir, err)
	}
	var role string
	err = id.Renew(ctx, func(ctx context.Context, csr []byte) (client.SVIDAnswer, error) {
		svid, err := c.RenewIdentity(ctx, csr)
		role = svid.Role
		return svid, err
	})
	if err != nil {
		return answer{}, err
	}
	value := operatorValue(id, role, absolute(dir))
	return answer{value: value, table: func(w io.Writer) {
		row(w, fmt.Sprintf("%s is certified until %s", id.ID(), instant(id.NotAfter())))
	}}, nil
}

func (a *app) operatorRemoveCommand() *cobra.Command {
	return a.removing(&cobra.Command{
		Use:   "remove NAME",
		Short: "Take an identity back, and close its connections",
		Long: "No agent that has heard of it accepts the certificate any more, and each closes what is open within a second. An\n" +
			"agent that is cut off from the core goes by what it knew until the certificate ends, at most an hour.",
		Example: "  parley operator remove eve --dry-run",
	}, removal{
		kind: "operator",
		radius: func(ctx context.Context, c *client.Client, name string) (string, error) {
			o, err := c.Operator(ctx, name)
			return fmt.Sprintf("%s, with the role %s, added %s by %s, loses its identity: its certificate counts no more, and its open connections "+
				"are closed within a second", o.Name, o.Role, instant(o.CreatedAt), o.CreatedBy), err
		},
		remove: func(ctx context.Context, c *client.Client, name string) error { return c.RemoveOperator(ctx, name) },
	})
}

// identityDir is the directory of the identity to use, "" when none is named.
func (a *app) identityDir() string {
	if a.identity != "" {
		return a.identity
	}
	return a.getenv(identityVariable)
}

// ownIdentity loads the identity to use over https.
func (a *app) ownIdentity(dir string) (*client.Identity, error) {
	id, err := client.LoadIdentity(dir)
	if err != nil {
		return nil, identityFailure(dir, err)
	}
	if now := clock.System(); now.After(id.NotAfter()) {
		return nil, &failure{code: exitDenied, err: fmt.Errorf("the certificate of %s lapsed %s ago", id.ID(), now.Sub(id.NotAfter()).Round(time.Second)),
			hint: "renew it by way of an agent on this host: parley operator renew --identity " + shellQuote(dir) + " --addr http://127.0.0.1:8500"}
	}
	return id, nil
}

func identityFailure(dir string, err error) error {
	return &failure{code: exitDenied, err: fmt.Errorf("no identity in %s: %w", dir, err),
		hint: "--identity and $" + identityVariable + " name a directory of parley operator add"}
}

// renewInPassing renews an identity that is due over the connection that it opens. It may fail: the certificate is still
// good, and the command that is being run says what is wrong with the agent.
func renewInPassing(ctx context.Context, c *client.Client, id *client.Identity) error {
	const patience = 3 * time.Second
	if !id.Due(clock.System()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := id.Renew(ctx, c.RenewIdentity)
	c.Close() // the next connection is made with the new certificate
	if errors.Is(err, client.ErrNotSaved) {
		return err
	}
	return nil
}
