package consul

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"time"

	"github.com/parley-mesh/parley/api"
	"github.com/parley-mesh/parley/state"
	"github.com/parley-mesh/parley/state/watch"
)

// roots is the trust bundle. Active is the newest root: during a rotation the older ones are still trusted.
type roots struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []root
}

type root struct {
	ID                  string
	Name                string
	SerialNumber        uint64 // its low 64 bits: the field has no room for more
	SigningKeyID        string
	ExternalTrustDomain string
	NotBefore           time.Time
	NotAfter            time.Time
	RootCert            string
	IntermediateCerts   []string
	Active              bool
	PrivateKeyType      string
	PrivateKeyBits      int
	CreateIndex         uint64
	ModifyIndex         uint64
}

// connectRoots answers the certificates that agents trust. Blocking.
func (d *dialect) connectRoots(x *api.Exchange) error {
	hub := x.Service().Local().Hub
	if len(hub.View().Bundle().Roots) == 0 {
		return api.Errorf(api.CodeUnavailable, "this agent does not know its cluster yet")
	}
	r := d.roster(x)
	return d.read(x, discovery{
		rows:  []watch.Selector{{Table: state.TableBundle}},
		index: func() uint64 { return r.base + hub.View().RowRevision(state.TableBundle, "") },
		show:  func(index uint64) any { return rootsOf(hub.View(), index) },
	})
}

func rootsOf(view *state.View, index uint64) roots {
	cluster, bundle := view.Cluster(), view.Bundle()
	answer := roots{TrustDomain: cluster.TrustDomain, Roots: []root{}}
	active := -1
	for _, der := range bundle.Roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // not what TLS would use either
		}
		one := rootOf(cert)
		one.ExternalTrustDomain, one.CreateIndex, one.ModifyIndex = cluster.ID, index, index // the bundle is one row
		answer.Roots = append(answer.Roots, one)
		if active < 0 || !one.NotBefore.Before(answer.Roots[active].NotBefore) {
			active = len(answer.Roots) - 1
		}
	}
	if active >= 0 {
		answer.Roots[active].Active = true
		answer.ActiveRootID = answer.Roots[active].ID
	}
	return answer
}

func rootOf(cert *x509.Certificate) root {
	sum := sha256.Sum256(cert.Raw)
	low := new(big.Int).And(cert.SerialNumber, new(big.Int).SetUint64(^uint64(0)))
	return root{
		ID: colons(sum[:20]), Name: cert.Subject.CommonName, SerialNumber: low.Uint64(), SigningKeyID: colons(cert.SubjectKeyId),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		RootCert:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		PrivateKeyType: "ec", PrivateKeyBits: 256,
	}
}

// colons writes bytes as "ab:cd:ef".
func colons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}
