//go:build poison

package state

// Poison is called before each command is run, in binaries made for tests that have to crash on some.
var Poison func(Command)

func poisoned(c Command) {
	if Poison != nil && c != nil {
		Poison(c)
	}
}
