package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// read brings a value of a TOML or JSON file into the type of the field and
// its normal form, or says what is wrong with it.
func (k *key) read(raw any) (any, string) {
	var s Settings
	v, wrong := convert(k.field(&s), raw)
	if wrong == "" && k.check != nil {
		v, wrong = k.check(v)
	}
	return v, wrong
}

func convert(field, raw any) (any, string) {
	switch field.(type) {
	case *string:
		if v, ok := raw.(string); ok {
			return v, ""
		}
		return nil, "must be a string, is " + typeName(raw)
	case *bool:
		if v, ok := raw.(bool); ok {
			return v, ""
		}
		return nil, "must be true or false, is " + typeName(raw)
	case *int:
		switch v := raw.(type) {
		case int64:
			if int64(int(v)) == v {
				return int(v), ""
			}
		case float64: // JSON has no other numbers
			if v == float64(int(v)) {
				return int(v), ""
			}
		}
		return nil, "must be a whole number, is " + typeName(raw)
	case *time.Duration:
		v, ok := raw.(string)
		if !ok {
			return nil, `must be a string with a unit such as "15m", is ` + typeName(raw)
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return nil, quote(v) + " is not a duration"
		}
		return d, ""
	case *[]string:
		return stringList(raw)
	case *Restart:
		if word, ok := raw.(string); ok {
			if word != Auto && word != never {
				return nil, quote(word) + " is not known"
			}
			return Restart{Never: word == never}, ""
		}
		list, wrong := stringList(raw)
		return Restart{Units: list}, wrong
	case *[][]string:
		items, ok := raw.([]any)
		if !ok {
			return nil, "must be a list of lists of strings, is " + typeName(raw)
		}
		lists := make([][]string, len(items))
		for i, item := range items {
			var wrong string
			if lists[i], wrong = stringList(item); wrong != "" {
				return nil, fmt.Sprintf("item %d %s", i+1, wrong)
			}
		}
		return lists, ""
	}
	return nil, "has no type" // not reached: the table holds these only
}

func stringList(raw any) ([]string, string) {
	items, ok := raw.([]any)
	if !ok {
		return nil, "must be a list of strings, is " + typeName(raw)
	}
	list := make([]string, len(items))
	for i, item := range items {
		if list[i], ok = item.(string); !ok {
			return nil, fmt.Sprintf("item %d must be a string, is %s", i+1, typeName(item))
		}
	}
	return list, ""
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	case nil:
		return "null"
	}
	return "a date or time"
}

// store puts a value that read returned into its field.
func (k *key) store(s *Settings, v any) {
	switch field := k.field(s).(type) {
	case *string:
		*field = v.(string)
	case *bool:
		*field = v.(bool)
	case *int:
		*field = v.(int)
	case *time.Duration:
		*field = v.(time.Duration)
	case *[]string:
		*field = slices.Clone(v.([]string)) // Settings may be changed by who holds them
	case *Restart:
		*field = v.(Restart)
		field.Units = slices.Clone(field.Units)
	case *[][]string:
		*field = make([][]string, 0, len(v.([][]string)))
		for _, list := range v.([][]string) {
			*field = append(*field, slices.Clone(list))
		}
	}
}

// value returns what the field holds as a string, bool, int, []string or [][]string.
func (k *key) value(s *Settings) any {
	switch field := k.field(s).(type) {
	case *string:
		return *field
	case *bool:
		return *field
	case *int:
		return *field
	case *time.Duration:
		return shortDuration(*field)
	case *[]string:
		return append([]string{}, *field...) // never null in JSON
	case *Restart:
		switch {
		case field.Never:
			return never
		case len(field.Units) == 0:
			return Auto
		}
		return slices.Clone(field.Units)
	case *[][]string:
		return append([][]string{}, *field...)
	}
	return nil
}

// shortDuration writes 15m0s as 15m.
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
