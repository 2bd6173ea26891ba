package security

import "fmt"

const redactedText = "[redacted]"

// redacted is embedded in what holds a private key, so that no verb of fmt, no JSON encoder and no
// logger prints it by accident.
type redacted struct{}

// Format implements fmt.Formatter for every verb.
func (redacted) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redactedText)) }

// MarshalText implements encoding.TextMarshaler, which JSON, YAML and zap's reflection respect.
func (redacted) MarshalText() ([]byte, error) { return []byte(redactedText), nil }
