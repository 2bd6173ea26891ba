//go:build !poison

package state

// poisoned does nothing: commands that crash replicas exist in test binaries only.
func poisoned(Command) {}
