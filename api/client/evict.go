package client

import "context"

// Eviction is what evicting a host does, or did. Core is what it was there; RootReplaced says that another root is on its way.
type Eviction struct {
	Node         string `json:"node"`
	Core         string `json:"core"`
	RootReplaced bool   `json:"root_replaced"`
	Evicted      bool   `json:"evicted"`
}

// Evict denies a host for good. With dryRun it only says what would happen. A *Error of the code guarded says that the core
// would have no quorum without it.
func (c *Client) Evict(ctx context.Context, node, reason string, dryRun bool) (Eviction, error) {
	var out Eviction
	err := c.post(ctx, "/parley/v1/evict", map[string]any{"node": node, "reason": reason, "dry_run": dryRun}, &out)
	return out, err
}
