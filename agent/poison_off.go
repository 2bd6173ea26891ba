//go:build !poison

package agent

// poison and unguarded do nothing: commands that crash core members exist in test binaries only.
func poison(string) {}

func unguarded() bool { return false }
