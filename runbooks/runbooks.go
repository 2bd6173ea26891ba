// Package runbooks holds the runbooks, one Markdown file for each group of alerts, and nothing else. They are embedded,
// so that a program can show and run them with the network, the disk and the cluster gone. Package ops/runbook reads
// them; its comment says how one is written.
package runbooks

import "embed"

// Files are the runbooks, ID.md each.
//
//go:embed *.md
var Files embed.FS
