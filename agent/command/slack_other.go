//go:build !linux

package command

// slacken does nothing where there is nothing to set.
func slacken() {}
