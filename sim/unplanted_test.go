//go:build !mutants

package sim

func plantFlag() string { return "" }
