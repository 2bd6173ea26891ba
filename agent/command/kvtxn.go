package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/parley-mesh/parley/api/client"
)

// maxTxnBytes is what an agent accepts.
const maxTxnBytes = 1 << 20

// txnFile is what `parley kv txn` reads: the body of POST /parley/v1/txn, with values as text or in base64.
type txnFile struct {
	Compare []struct {
		client.Compare
		Value *string `json:"value"`
	} `json:"compare"`
	Then []txnStep `json:"then"`
	Else []txnStep `json:"else"`
}

type txnStep struct {
	client.Op
	Value *string `json:"value"`
}

func (a *app) kvTxnCommand() *cobra.Command {
	var request string
	cmd := &cobra.Command{
		Use:   "txn FILE|-",
		Short: "Do a transaction: then if every compare holds, else otherwise, as one step",
		Long: "Txn reads a JSON object {\"compare\":[...],\"then\":[...],\"else\":[...]} with at most 128 parts from a file or from\n" +
			"standard input (-), in the form of POST /parley/v1/txn, below. A compare looks at a key's revision (0: there is none),\n" +
			"create_revision, version or value. Whether the compares held is in succeeded: it is no failure if they did not.",
		Example: "  parley kv txn move.json --expect .succeeded\n" +
			"  echo '{\"compare\":[{\"key\":\"lock\"}],\"then\":[{\"op\":\"put\",\"key\":\"lock\",\"value\":\"me\"}]}' | parley kv txn -",
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			txn, err := a.readTxn(args[0])
			if err != nil {
				return err
			}
			txn.RequestID = request
			return a.change(func(ctx context.Context, c *client.Client) (answer, error) {
				done, err := c.Txn(ctx, txn)
				return answer{value: done, table: func(w io.Writer) { txnTable(w, done) }}, err
			})(cmd, nil)
		},
	}
	requestIDFlag(cmd, &request)
	return cmd
}

func txnTable(w io.Writer, done client.TxnAnswer) {
	branch := "else"
	if done.Succeeded {
		branch = "then"
	}
	row(w, fmt.Sprintf("did %s, at revision %d", branch, done.Revision))
	for _, r := range done.Results {
		line := r.Op + " " + oneName(r.Key)
		switch {
		case r.Pair != nil:
			line += fmt.Sprintf(" @%d = %s", r.Pair.Revision, oneLine(r.Pair.Value))
		case r.Deleted > 0:
			line += ": deleted " + plural(int(r.Deleted), "key") //nolint:gosec // bounded
		}
		row(w, line)
		for _, p := range r.Pairs {
			row(w, fmt.Sprintf("  %s @%d = %s", oneName(p.Key), p.Revision, oneLine(p.Value)))
		}
	}
}

func (a *app) readTxn(name string) (client.Txn, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return client.Txn{}, err
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxTxnBytes+1))
	switch {
	case err != nil:
		return client.Txn{}, fmt.Errorf("read %s: %w", name, err)
	case len(data) > maxTxnBytes:
		return client.Txn{}, usageError("split the transaction", "%s has more than %d bytes, the limit of a transaction", name, maxTxnBytes)
	}
	var file txnFile
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return client.Txn{}, usageError(`write it like {"compare":[],"then":[{"op":"put","key":"k","value":"v"}]}`, "%s is no transaction: %v", name, err)
	}
	if decoder.More() {
		return client.Txn{}, usageError("put one JSON object there", "%s goes on behind the transaction", name)
	}
	return file.txn()
}

func (f txnFile) txn() (txn client.Txn, err error) {
	for _, c := range f.Compare {
		if c.ValueBase64, err = oneOf(c.Key, c.Value, c.ValueBase64); err != nil {
			return txn, err
		}
		txn.Compare = append(txn.Compare, c.Compare)
	}
	if txn.Then, err = txnSteps(f.Then); err == nil {
		txn.Else, err = txnSteps(f.Else)
	}
	return txn, err
}

func txnSteps(steps []txnStep) (ops []client.Op, err error) {
	for _, s := range steps {
		if s.Op.Value, err = oneOf(s.Key, s.Value, s.Op.Value); err != nil {
			return nil, err
		}
		ops = append(ops, s.Op)
	}
	return ops, nil
}

func oneOf(key string, text *string, binary []byte) ([]byte, error) {
	switch {
	case text == nil:
		return binary, nil
	case binary != nil:
		return nil, usageError("give one of them", "the key %q has both value and value_base64", key)
	}
	return []byte(*text), nil
}
