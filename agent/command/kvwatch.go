package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// errSeen ends a watch whose expectation came true.
var errSeen = errors.New("seen")

func (a *app) kvWatchCommand() *cobra.Command {
	var prefix bool
	cmd := &cobra.Command{
		Use:   "watch KEY",
		Short: "Print a key, or with --prefix many, now and after every change",
		Long: "Watch prints what exists, then every change, until it is stopped, --wait is over, or --expect is true for\n" +
			"an event. With -o json each line is one event: {\"type\":\"put\",\"key\",\"revision\",\"pair\":{...}} or\n" +
			"{\"type\":\"delete\",\"key\",\"revision\"}. Changes that follow each other fast may come as one.",
		Example: "  parley kv watch greeting --wait 1m --expect '.pair.value == \"hello\"'",
		Args:    takes("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			return a.watch(cmd, c, args[0], prefix)
		},
	}
	cmd.Flags().BoolVar(&prefix, "prefix", false, "watch all keys that begin with KEY")
	return cmd
}

func (a *app) watch(cmd *cobra.Command, c *client.Client, key string, prefix bool) error {
	expect, err := compileExpect(a.expect)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if a.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.wait)
		defer cancel()
	}
	err = c.Watch(ctx, key, prefix, func(e client.Event) error {
		if e.Type == "ready" {
			return nil // all that exists was sent; changes follow
		}
		shown := watchEvent{Type: e.Type, Key: e.Key, Revision: e.Revision, Pair: e.Pair}
		if err := a.showEvent(shown); err != nil {
			return err
		}
		ok, err := a.holds(cmd.Context(), expect, shown)
		if err == nil && ok && expect != nil {
			err = errSeen
		}
		return err
	})
	var failed *failure
	switch {
	case errors.Is(err, errSeen):
		return nil
	case errors.As(err, &failed): // it was the expectation, however late it is
		return err
	case ctx.Err() != nil && cmd.Context().Err() == nil: // --wait is over
		if expect != nil {
			return expectFalse(a.expect)
		}
		return nil
	}
	return err
}

// watchEvent is one line of JSON.
type watchEvent struct {
	Type     string       `json:"type"` // put or delete
	Key      string       `json:"key"`
	Revision uint64       `json:"revision"`
	Pair     *client.Pair `json:"pair,omitempty"`
}

func (a *app) showEvent(shown watchEvent) error {
	switch a.output {
	case "json":
		return json.NewEncoder(a.out).Encode(shown)
	case "yaml":
		if _, err := fmt.Fprintln(a.out, "---"); err != nil {
			return err
		}
		return writeYAML(a.out, shown)
	}
	line := fmt.Sprintf("%-6s %s @%d", shown.Type, oneName(shown.Key), shown.Revision)
	if shown.Pair != nil {
		line += " = " + oneLine(shown.Pair.Value)
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}
