package state

import (
	"errors"
	"fmt"
	"slices"
)

func (c CatalogRegister) check() error {
	if err := CheckNodeName(c.Name); err != nil {
		return err
	}
	if len(c.Checks) > MaxRegisterChecks {
		return fmt.Errorf("%d checks at once: the limit is %d", len(c.Checks), MaxRegisterChecks)
	}
	if c.Node != nil {
		if c.Node.Name != c.Name {
			return fmt.Errorf("the node is called %q and not %q", c.Node.Name, c.Name)
		}
		if err := c.Node.check(); err != nil {
			return err
		}
	}
	if c.Service != nil {
		if c.Service.Node != c.Name {
			return fmt.Errorf("the service is on node %q and not on %q", c.Service.Node, c.Name)
		}
		if err := c.Service.check(); err != nil {
			return err
		}
	}
	for _, one := range c.Checks {
		if one.Node != c.Name {
			return fmt.Errorf("check %q is on node %q and not on %q", one.ID, one.Node, c.Name)
		}
		if err := one.check(); err != nil {
			return err
		}
	}
	return nil
}

func (c CatalogDeregister) check() error {
	if c.Service != "" && c.Check != "" {
		return errors.New("a service and a check together: name one")
	}
	if err := checkLine("service id", c.Service, MaxServiceNameBytes); err != nil {
		return err
	}
	if err := checkLine("check id", c.Check, MaxCheckNameBytes); err != nil {
		return err
	}
	return CheckNodeName(c.Node)
}

// check also keeps the past out: it is the machine's to set.
func (n CatalogNode) check() error {
	if n.CreateRevision != 0 || n.ModRevision != 0 || n.Owner != "" || n.Agent {
		return errors.New("a new node has a past: leave its owner and revisions empty")
	}
	if err := CheckNodeName(n.Name); err != nil {
		return err
	}
	if n.ID != "" {
		if id, err := ParseSessionID(n.ID); err != nil || id.String() != n.ID {
			return fmt.Errorf("node id %.60q: the text of a UUID, in lower case, is needed", n.ID)
		}
	}
	if err := checkName("address", n.Address, MaxAddressBytes); err != nil {
		return err
	}
	if err := checkPairs("tagged addresses", n.TaggedAddresses, MaxTaggedAddresses); err != nil {
		return err
	}
	return checkPairs("metadata", n.Meta, MaxMetaPairs)
}

func (s CatalogService) check() error {
	if s.CreateRevision != 0 || s.ModRevision != 0 || s.Owner != "" {
		return errors.New("a new service has a past: leave its owner and revisions empty")
	}
	if err := CheckNodeName(s.Node); err != nil {
		return err
	}
	if err := checkName("service id", s.ID, MaxServiceNameBytes); err != nil {
		return err
	}
	if err := checkName("service name", s.Name, MaxServiceNameBytes); err != nil {
		return err
	}
	if len(s.Tags) > MaxTags {
		return fmt.Errorf("service %q has %d tags: the limit is %d", s.ID, len(s.Tags), MaxTags)
	}
	for _, tag := range s.Tags {
		if err := checkLine("tag", tag, MaxServiceNameBytes); err != nil {
			return err
		}
	}
	if err := s.checkAddresses(); err != nil {
		return err
	}
	if s.PassingWeight < 0 || s.PassingWeight > MaxWeight || s.WarningWeight < 0 || s.WarningWeight > MaxWeight {
		return fmt.Errorf("service %q has the weights %d and %d: use 0 to %d", s.ID, s.PassingWeight, s.WarningWeight, MaxWeight)
	}
	return checkPairs("metadata", s.Meta, MaxMetaPairs)
}

func (s CatalogService) checkAddresses() error {
	if s.Port < 0 || s.Port > 65535 {
		return fmt.Errorf("service %q has the port %d: use 0 to 65535", s.ID, s.Port)
	}
	if err := checkLine("address", s.Address, MaxAddressBytes); err != nil {
		return err
	}
	if err := checkLine("socket path", s.SocketPath, MaxSocketPathBytes); err != nil {
		return err
	}
	if len(s.TaggedAddresses) > MaxTaggedAddresses {
		return fmt.Errorf("service %q has %d tagged addresses: the limit is %d", s.ID, len(s.TaggedAddresses), MaxTaggedAddresses)
	}
	for i, t := range s.TaggedAddresses {
		if t.Port < 0 || t.Port > 65535 {
			return fmt.Errorf("tagged address %q has the port %d: use 0 to 65535", t.Name, t.Port)
		}
		if i > 0 && s.TaggedAddresses[i-1].Name >= t.Name {
			return errors.New("the tagged addresses are not sorted, or one is there twice")
		}
		if err := checkName("name of an address", t.Name, MaxMetaKeyBytes); err != nil {
			return err
		}
		if err := checkLine("address", t.Address, MaxAddressBytes); err != nil {
			return err
		}
	}
	return nil
}

func (c CatalogCheck) check() error {
	if c.CreateRevision != 0 || c.ModRevision != 0 || c.Owner != "" || c.ServiceName != "" || c.ServiceTags != nil {
		return errors.New("a new check has a past: leave its owner, revisions and service's name empty")
	}
	if err := CheckNodeName(c.Node); err != nil {
		return err
	}
	if err := checkName("check id", c.ID, MaxCheckNameBytes); err != nil {
		return err
	}
	if !slices.Contains(checkStatuses, c.Status) {
		return fmt.Errorf("check %q has the status %.40q: use one of %q", c.ID, c.Status, checkStatuses)
	}
	for _, text := range []struct {
		what, text string
		limit      int
	}{{"check's name", c.Name, MaxCheckNameBytes}, {"service id", c.ServiceID, MaxServiceNameBytes}, {"check's type", c.Type, MaxCheckTypeBytes}} {
		if err := checkLine(text.what, text.text, text.limit); err != nil {
			return err
		}
	}
	for _, text := range []struct {
		what        string
		size, limit int
	}{{"notes", len(c.Notes), MaxNotesBytes}, {"output", len(c.Output), MaxOutputBytes}, {"definition", len(c.Definition), MaxDefinitionBytes}} {
		if text.size > text.limit {
			return fmt.Errorf("the %s of check %q has %d bytes: the limit is %d", text.what, c.ID, text.size, text.limit)
		}
	}
	return nil
}

// checkName is checkLine for what must not be empty.
func checkName(what, text string, limit int) error {
	if text == "" {
		return fmt.Errorf("the %s is empty: give one", what)
	}
	return checkLine(what, text, limit)
}

func checkPairs(what string, pairs []Pair, limit int) error {
	if len(pairs) > limit {
		return fmt.Errorf("the %s has %d entries: the limit is %d", what, len(pairs), limit)
	}
	for i, p := range pairs {
		if i > 0 && pairs[i-1].Key >= p.Key {
			return fmt.Errorf("the %s is not sorted, or has %.40q twice", what, p.Key)
		}
		if err := checkName("key of the "+what, p.Key, MaxMetaKeyBytes); err != nil {
			return err
		}
		if err := checkLine("value of the "+what, p.Value, MaxMetaValueBytes); err != nil {
			return err
		}
	}
	return nil
}
