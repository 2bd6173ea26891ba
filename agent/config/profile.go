package config

import "slices"

// profiles are other defaults for a situation.
var profiles = map[string][]Override{
	"beside-consul": {
		{Key: "http.bind", Value: "127.0.0.1:18500"},
		{Key: "dns.bind", Value: "127.0.0.1:18600"},
	},
}

// applyProfile gives the keys of c's profile its values, unless a flag set them or the file says
// something else than the default. The default spelled out does not count: the example file has all of
// them, and a profile that such a file silently switches off would help nobody.
func (c *Config) applyProfile(overrides []Override, p *problems) {
	plain := Default()
	defaults, own := fields(&plain), fields(c)
	for _, o := range profiles[c.Profile] {
		i := slices.IndexFunc(own, func(f field) bool { return f.key == o.Key })
		byFlag := slices.ContainsFunc(overrides, func(given Override) bool { return given.Key == o.Key })
		if !byFlag && own[i].text() == defaults[i].text() {
			c.override(o, p)
		}
	}
}
