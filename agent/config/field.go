package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one setting: its key in the file ("mesh.bind"), its place in a Config, and its tags.
type field struct {
	key   string
	value reflect.Value
	tag   reflect.StructTag
}

// fields lists the settings of c in the order of the example file.
func fields(c *Config) []field {
	return fieldsOf("", reflect.ValueOf(c).Elem())
}

func fieldsOf(prefix string, section reflect.Value) []field {
	var list []field
	for i := range section.NumField() {
		sf := section.Type().Field(i)
		key := sf.Tag.Get("toml")
		if key == "-" {
			continue
		}
		if sf.Type.Kind() == reflect.Struct {
			list = append(list, fieldsOf(prefix+key+".", section.Field(i))...)
			continue
		}
		list = append(list, field{key: prefix + key, value: section.Field(i), tag: sf.Tag})
	}
	return list
}

// parse sets the field from a flag's or a tag's text. Lists are separated by commas.
func (f field) parse(text string) error {
	switch f.value.Interface().(type) {
	case string:
		return f.set(text)
	case bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return f.wants()
		}
		return f.set(v)
	case int:
		v, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return f.wants()
		}
		return f.set(v)
	case time.Duration:
		return f.set(text)
	default:
		var list []any
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		return f.set(list)
	}
}

// set assigns a value as the TOML decoder delivers it: string, bool, int64 or []any.
func (f field) set(v any) error {
	switch v := v.(type) {
	case string:
		return f.setString(v)
	case bool:
		if f.value.Kind() == reflect.Bool {
			f.value.SetBool(v)
			return nil
		}
	case int64:
		if f.value.Kind() == reflect.Int {
			f.value.SetInt(v)
			return nil
		}
	case []any:
		return f.setList(v)
	}
	return f.wants()
}

func (f field) setString(v string) error {
	switch f.value.Interface().(type) {
	case string:
		f.value.SetString(v)
		return nil
	case time.Duration:
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write it like \"90s\", \"10m\" or \"1h\"", v)
		}
		f.value.SetInt(int64(d))
		return nil
	}
	return f.wants()
}

func (f field) setList(v []any) error {
	if f.value.Kind() != reflect.Slice {
		return f.wants()
	}
	list := make([]string, 0, len(v))
	for _, item := range v {
		s, ok := item.(string)
		if !ok {
			return f.wants()
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		list = nil
	}
	f.value.Set(reflect.ValueOf(list))
	return nil
}

// wants says what a value of the field looks like.
func (f field) wants() error {
	switch f.value.Interface().(type) {
	case string:
		return fmt.Errorf("wants a text in quotes")
	case bool:
		return fmt.Errorf("wants true or false")
	case int:
		return fmt.Errorf("wants a whole number")
	case time.Duration:
		return fmt.Errorf("wants a duration in quotes, like \"10m\"")
	default:
		return fmt.Errorf("wants a list of texts, like [\"a\", \"b\"]")
	}
}

// text is the field's value as the example file shows it.
func (f field) text() string {
	switch v := f.value.Interface().(type) {
	case string:
		return strconv.Quote(v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case time.Duration:
		return strconv.Quote(shortDuration(v))
	default:
		return fmt.Sprint(v)
	}
}

// shortDuration writes 10m0s as 10m and 1h0m0s as 1h.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
