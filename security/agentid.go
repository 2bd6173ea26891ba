package security

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxNodeName is the longest node name in bytes, the longest DNS label.
const maxNodeName = 63

// agentPath is what the path of an agent's SPIFFE ID begins with; the node name follows.
const agentPath = "/parley/agent/"

// ErrNotAgent is wrapped by what refuses a SPIFFE ID that is no agent's: one without a path, or a
// workload's.
var ErrNotAgent = errors.New("not the identity of an agent")

// CheckNodeName says what is wrong with a node name: it has 1 to 63 characters of a-z, 0-9, dot,
// underscore and hyphen, and begins with a letter or a digit.
func CheckNodeName(name string) error {
	if name == "" {
		return errors.New("node name is empty: give one with --name")
	}
	if len(name) > maxNodeName {
		return fmt.Errorf("node name has %d characters, at most %d are allowed", len(name), maxNodeName)
	}
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return fmt.Errorf("node name %q: use a-z, 0-9, and . _ - after the first character", name)
		}
	}
	return nil
}

// AgentID is the SPIFFE ID of the agent with the given node name in td.
func AgentID(td spiffeid.TrustDomain, node string) (spiffeid.ID, error) {
	if err := CheckNodeName(node); err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromPath(td, agentPath+node)
}

// NodeOf is the node name in an agent's SPIFFE ID. Every other ID gives an error that wraps ErrNotAgent.
func NodeOf(id spiffeid.ID) (string, error) {
	if id.Path() == "" {
		return "", fmt.Errorf("%s has no path: %w", id, ErrNotAgent)
	}
	node, ok := strings.CutPrefix(id.Path(), agentPath)
	if !ok || CheckNodeName(node) != nil {
		return "", fmt.Errorf("%s: %w", id, ErrNotAgent)
	}
	return node, nil
}
