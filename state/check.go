package state

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// The checks of this file depend on the command alone, never on the state. Encode makes them to
// refuse early, Apply makes them again because a log entry is only as honest as its leader.

func (c Put) check() error {
	if err := CheckKey(c.Key); err != nil {
		return err
	}
	return checkValue(c.Value)
}

func (c Delete) check() error { return CheckKey(c.Key) }

func (c DeletePrefix) check() error { return checkPrefix(c.Prefix) }

func (c Txn) check() error {
	if n := len(c.Compare) + len(c.Then) + len(c.Else); n > MaxTxnOps {
		return fmt.Errorf("the transaction has %d compares and ops: the limit is %d", n, MaxTxnOps)
	}
	for i, compare := range c.Compare {
		if err := compare.check(); err != nil {
			return fmt.Errorf("compare %d: %w", i, err)
		}
	}
	for i, op := range slices.Concat(c.Then, c.Else) {
		if err := op.check(); err != nil {
			return fmt.Errorf("op %d: %w", i, err)
		}
	}
	return nil
}

func (c Compare) check() error {
	if err := CheckKey(c.Key); err != nil {
		return err
	}
	if !slices.Contains(targets, c.Target) {
		return fmt.Errorf("target %.40q: use one of %q", c.Target, targets)
	}
	if !slices.Contains(relations, c.Relation) {
		return fmt.Errorf("relation %.40q: use one of %q", c.Relation, relations)
	}
	return checkValue(c.Value)
}

func (op Op) check() error {
	if !slices.Contains(opKinds, op.Kind) {
		return fmt.Errorf("op %.40q: use one of %q", op.Kind, opKinds)
	}
	if slices.Contains(catalogOps, op.Kind) {
		return op.checkCatalog()
	}
	switch op.Kind {
	case OpSessionDestroy:
		_, err := ParseSessionID(op.Session)
		return err
	case OpDeletePrefix, OpGetTree:
		return checkPrefix(op.Key)
	case OpCheckRevision:
		if op.Compare == nil {
			return errors.New("a check of the revision names none")
		}
	}
	return checkHold(op.Key, op.Value, op.Session)
}

func (c TokenCreate) check() error {
	t := c.Token
	switch {
	case !checkHex(t.ID, 16):
		return fmt.Errorf("token id %.40q: 16 lower-case hex digits are needed", t.ID)
	case len(t.Verify) != VerifyBytes:
		return fmt.Errorf("the token's verification key has %d bytes, not %d", len(t.Verify), VerifyBytes)
	case t.Uses < 1 || t.Uses > MaxTokenUses:
		return fmt.Errorf("a token for %d joins: use 1 to %d", t.Uses, MaxTokenUses)
	case !t.Role.Valid():
		return fmt.Errorf("role %.40q is unknown", t.Role)
	case t.Revoked || len(t.Redeemed) > 0 || t.Created != 0:
		return errors.New("a new token has a past: leave created, revoked and redeemed empty")
	}
	for _, name := range []string{t.BoundNode, t.Replace} {
		if name == "" {
			continue
		}
		if err := CheckNodeName(name); err != nil {
			return err
		}
	}
	if t.Replace != "" && t.BoundNode != "" && t.Replace != t.BoundNode {
		return fmt.Errorf("a token bound to %q cannot replace %q", t.BoundNode, t.Replace)
	}
	return nil
}

func (c TokenRevoke) check() error {
	if !checkHex(c.ID, 16) {
		return fmt.Errorf("token id %.40q: 16 lower-case hex digits are needed", c.ID)
	}
	return nil
}

func (c NodeJoin) check() error {
	if !checkHex(c.Token, 16) {
		return fmt.Errorf("token id %.40q: 16 lower-case hex digits are needed", c.Token)
	}
	return checkBinding(c.Node, c.HostKey, c.SealKey, c.Zone, c.Address)
}

// checkBinding checks what a node says about itself.
func checkBinding(name string, hostKey, sealKey []byte, zone, address string) error {
	if err := CheckNodeName(name); err != nil {
		return err
	}
	switch {
	case len(hostKey) == 0 || len(hostKey) > MaxHostKeyBytes:
		return fmt.Errorf("the host key has %d bytes: 1 to %d are allowed", len(hostKey), MaxHostKeyBytes)
	case len(sealKey) != SealKeyBytes:
		return fmt.Errorf("the seal key has %d bytes, not %d", len(sealKey), SealKeyBytes)
	case len(zone) > MaxZoneBytes:
		return fmt.Errorf("the zone has %d bytes: the limit is %d", len(zone), MaxZoneBytes)
	case len(address) > MaxAddressBytes:
		return fmt.Errorf("the address has %d bytes: the limit is %d", len(address), MaxAddressBytes)
	}
	return nil
}

func (c NodeSetRole) check() error {
	if !c.Role.Valid() {
		return fmt.Errorf("role %.40q is unknown", c.Role)
	}
	return CheckNodeName(c.Node)
}

func (c NodeSetLeft) check() error { return CheckNodeName(c.Node) }

func (c CoreGrant) check() error { return CheckNodeName(c.Node) }

func (c CoreAssign) check() error { return CheckNodeName(c.Node) }

func (c CoreRetire) check() error {
	if c.RaftID == 0 {
		return errors.New("raft id 0 is never given to a node")
	}
	return nil
}

func (c CoreHold) check() error {
	if c.Millis > MaxHoldMillis {
		return fmt.Errorf("a node is held for at most %v at a time", time.Duration(MaxHoldMillis)*time.Millisecond)
	}
	return CheckNodeName(c.Node)
}

func (c CoreSeal) check() error {
	if n := len(c.Sealed); n == 0 || n > MaxSealedBytes {
		return fmt.Errorf("the sealed key has %d bytes: 1 to %d are allowed", n, MaxSealedBytes)
	}
	return CheckNodeName(c.Node)
}

func (c SetCoreSize) check() error {
	switch c.Size {
	case 1, 3, 5, 7:
		return nil
	}
	return fmt.Errorf("core size %d: use 1, 3, 5 or 7", c.Size)
}

// check leaves the upper bound to Decode, which must stop there and not refuse.
func (c SetClusterVersion) check() error {
	if c.Version == 0 || c.Version > 1<<30 {
		return fmt.Errorf("cluster version %d is none", c.Version)
	}
	return nil
}

func (c SetBundle) check() error { return checkBundle(c.Bundle) }

func checkBundle(b Bundle) error {
	if n := len(b.Roots); n == 0 || n > MaxRoots {
		return fmt.Errorf("a bundle of %d roots: 1 to %d are allowed", n, MaxRoots)
	}
	for i, root := range b.Roots {
		if n := len(root); n == 0 || n > MaxRootBytes {
			return fmt.Errorf("root %d has %d bytes: 1 to %d are allowed", i, n, MaxRootBytes)
		}
	}
	return nil
}
