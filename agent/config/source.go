package config

// The values of identity.source.
const (
	SourceBuiltIn     = "built-in"
	SourceWorkloadAPI = "workload-api"
)

// checkSource refuses a configuration in which two authorities would speak for one trust domain.
func (c *Config) checkSource(p *problems) {
	i := c.Identity
	if i.Source != SourceWorkloadAPI {
		if i.WorkloadAPI != "" {
			p.add(Problem{
				Key: "identity.workload_api", Message: "it is for identity.source = \"workload-api\", and the source is " + i.Source,
				Hint: "remove it, or set identity.source: an agent never has two sources of its identity",
			})
		}
		return
	}
	if i.WorkloadAPI == "" {
		p.add(Problem{
			Key: "identity.workload_api", Message: "identity.source = \"workload-api\" needs its address",
			Hint: "such as unix:///run/spire/sockets/agent.sock",
		})
	}
	refuse := func(key string, set bool, why string) {
		if set {
			p.add(Problem{Key: key, Message: "it does not go with identity.source = \"workload-api\"", Hint: why})
		}
	}
	programs := "remove it: programs and other trust domains get their identities and bundles from the authority that certifies the agents"
	refuse("identity.workload_socket", i.WorkloadSocket != "" && i.WorkloadSocket != "off", programs)
	refuse("identity.bundle_endpoint", i.BundleEndpoint != "", programs)
	refuse("identity.bundle_cert_file", i.BundleCertFile != "", programs)
	refuse("identity.bundle_key_file", i.BundleKeyFile != "", programs)
	refuse("identity.federate_with", len(i.FederateWith) > 0, programs)
	refuse("https.bind", c.HTTPS.Bind != "", "remove it: operators have no certificates here; they work on the hosts, by the admin socket")
}
