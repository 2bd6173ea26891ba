package state

import "bytes"

func (c TokenCreate) apply(a *applying) Result {
	t := c.Token
	if _, exists := a.s.token(t.ID); exists {
		return refuse(CodeExists, "token %s exists: draw another id", t.ID)
	}
	if t.Expires <= a.at {
		return refuse(CodeInvalid, "the token would have expired already")
	}
	if _, known := a.s.node(t.Replace); t.Replace != "" && !known {
		return refuse(CodeNotFound, "there is no node %q to replace", t.Replace)
	}
	old := a.oldTokens()
	if a.s.tables[TableToken].rows-len(old) >= MaxTokens {
		return refuse(CodeLimit, "there are %d tokens: wait until some expired a day ago", MaxTokens)
	}
	for _, id := range old {
		a.set(TableToken, id, nil)
	}
	t.Created = a.at
	a.setToken(t)
	return Result{}
}

// oldTokens lists the tokens that expired long ago. Creating one sweeps them away, so that their
// number stays bounded without a clock of our own.
func (a *applying) oldTokens() []string {
	const retention = TokenRetention << 16 // in the units of a stamp
	var old []string
	a.s.scan(TableToken, "", "", func(r *record) bool {
		if t := must(decodeToken(r.row)); a.at > t.Expires && a.at-t.Expires > retention {
			old = append(old, t.ID)
		}
		return true
	})
	return old
}

func (c TokenRevoke) apply(a *applying) Result {
	t, exists := a.s.token(c.ID)
	if !exists {
		return refuse(CodeNotFound, "there is no token %s", c.ID)
	}
	if !t.Revoked {
		t.Revoked = true
		a.setToken(t)
	}
	return Result{}
}

func (c NodeJoin) apply(a *applying) Result {
	t, exists := a.s.token(c.Token)
	switch {
	case !exists:
		return refuse(CodeNotFound, "the token is unknown: create another")
	case t.Revoked:
		return refuse(CodeRevoked, "the token was revoked: create another")
	case t.Expires <= a.at:
		return refuse(CodeExpired, "the token expired: create another")
	case t.BoundNode != "" && t.BoundNode != c.Node:
		return refuse(CodeDenied, "the token is bound to the node name %q", t.BoundNode)
	}
	if res, done := c.again(a, t); done {
		return res
	}
	if t.Uses == 0 {
		return refuse(CodeUsed, "the token has been used: create another")
	}
	if res := a.deniedKey(c.HostKey); res.Code != CodeOK {
		return res
	}
	old, known := a.s.node(c.Node)
	if res := c.checkName(a, t, old, known); res.Code != CodeOK {
		return res
	}
	n := c.bind(a, t, old, known)
	t.Uses--
	t.Redeemed = append(t.Redeemed, Redemption{CSRKeyHash: c.CSRKeyHash, Node: c.Node})
	a.setToken(t)
	return Result{Body: EncodeNode(n)}
}

// again answers the retry of a join that has happened.
func (c NodeJoin) again(a *applying, t Token) (Result, bool) {
	for _, d := range t.Redeemed {
		if d.CSRKeyHash != c.CSRKeyHash {
			continue
		}
		n, _ := a.s.node(d.Node)
		if d.Node != c.Node || !bytes.Equal(n.HostKey, c.HostKey) {
			return refuse(CodeConflict, "this key has joined as another node: make a new key"), true
		}
		return Result{Body: EncodeNode(n)}, true
	}
	return Result{}, false
}

// checkName keeps a name with its host key, and a host key with its name.
func (c NodeJoin) checkName(a *applying, t Token, old Node, known bool) Result {
	if known && !bytes.Equal(old.HostKey, c.HostKey) && t.Replace != c.Node {
		return refuse(CodeExists, "the name %q belongs to another host: choose another, or create "+
			"the token with --replace %s", c.Node, c.Node)
	}
	if !known && a.s.tables[TableNode].rows >= MaxNodes {
		return refuse(CodeLimit, "there are %d nodes, the most that there can be", MaxNodes)
	}
	var other string
	a.s.scan(TableNode, "", "", func(r *record) bool {
		n := must(DecodeNode(r.row))
		if n.Name != c.Node && bytes.Equal(n.HostKey, c.HostKey) {
			other = n.Name
		}
		return other == ""
	})
	if other != "" {
		return refuse(CodeExists, "this host key belongs to the node %q: use that name, or an "+
			"empty data directory", other)
	}
	return Result{}
}

// bind writes the node's row. The first joiners get the core grant unasked. A host that comes back
// under its name keeps what it was allowed; a host that replaces another starts afresh. Either way its Raft id, if it had one, ends.
func (c NodeJoin) bind(a *applying, t Token, old Node, known bool) Node {
	n := Node{
		Name: c.Node, UID: c.UID, HostKey: c.HostKey, SealKey: c.SealKey,
		BindingEpoch: old.BindingEpoch + 1,
		Role:         t.Role, CoreGrant: t.Core,
		Zone: c.Zone, Address: c.Address, JoinedAt: a.at,
	}
	switch {
	case !known:
		n.CoreGrant = a.takeAutoGrant() || n.CoreGrant
	case bytes.Equal(old.HostKey, c.HostKey):
		n.Role = stronger(old.Role, t.Role)
		n.CoreGrant = old.CoreGrant || t.Core
		// Who has to join again has lost what says under which Raft id it ran, and with it, for all
		// that we know, its log. Under the old id it would vote as if it still had it.
		a.retireHost(c.Node)
	default:
		a.retireHost(c.Node)
	}
	if known && !bytes.Equal(old.SealKey, c.SealKey) {
		a.dropSeal(c.Node)
	}
	a.forgetGenerations(c.Node)
	a.deleteCatalogNode(c.Node) // the name is an identity from now on: what others said of it ends
	a.touchServices(c.Node)     // their readers are shown the node
	a.setNode(n)
	return n
}

func (a *applying) takeAutoGrant() bool {
	c := a.s.cluster()
	if c.AutoGrants == 0 {
		return false
	}
	c.AutoGrants--
	a.setCluster(c)
	return true
}

// retireHost ends the Raft ids of a replaced host. Its successor has none of its log: under the
// old id it would vote as if it had.
func (a *applying) retireHost(node string) {
	for _, m := range a.s.core(false) {
		if m.Node == node {
			a.retire(m)
		}
	}
}

// dropSeal deletes what was sealed to a key that is gone, and the key in the TPM of the host that had it.
func (a *applying) dropSeal(node string) {
	for _, table := range []Table{TableSeal, TableNextSeal, TableSealKey} {
		if _, ok := a.s.get(table, node); ok {
			a.set(table, node, nil)
		}
	}
}
