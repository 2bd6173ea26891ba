package state

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// CheckNodeName returns nil for a name that a node may have: 1 to 63 of a-z, 0-9, dot, underscore
// and hyphen, the first a letter or digit. It becomes part of a SPIFFE ID and a DNS name.
func CheckNodeName(name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fmt.Errorf("node name %.80q has %d bytes: use 1 to %d", name, len(name), MaxNameBytes)
	}
	if strings.ContainsAny(name[:1], "._-") {
		return fmt.Errorf("node name %q begins with %q: begin with a letter or digit", name, name[:1])
	}
	for _, c := range []byte(name) {
		if !nodeNameByte(c) {
			return fmt.Errorf("node name %q contains %q: use a-z, 0-9, '.', '_' and '-'", name, c)
		}
	}
	return nil
}

func nodeNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// CheckKey returns nil for a key that can be written: 1 byte to MaxKeyBytes of UTF-8. JSON has no form for other bytes,
// in which two keys would look the same.
func CheckKey(key string) error {
	if key == "" {
		return errors.New("the key is empty: give it at least one byte")
	}
	return checkPrefix(key)
}

func checkPrefix(prefix string) error {
	if len(prefix) > MaxKeyBytes {
		return fmt.Errorf("the key has %d bytes: the limit is %d", len(prefix), MaxKeyBytes)
	}
	if !utf8.ValidString(prefix) {
		return fmt.Errorf("the key %.80q is not UTF-8: write its bytes as text, such as hex", prefix)
	}
	return nil
}

func checkValue(value []byte) error {
	if len(value) > MaxValueBytes {
		return fmt.Errorf("the value has %d bytes: the limit is %d", len(value), MaxValueBytes)
	}
	return nil
}

// checkHex reports whether s is made of n lower-case hex digits.
func checkHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
