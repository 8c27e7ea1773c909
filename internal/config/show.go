package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Row is one setting as `config show` prints it, without credentials.
type Row struct {
	Key    string `json:"key"`
	Value  any    `json:"value"` // string (durations too), bool, int, []string or [][]string
	Origin string `json:"origin"`
}

// Text writes the value as TOML does.
func (r Row) Text() string {
	switch v := r.Value.(type) {
	case string:
		return strconv.Quote(v)
	case []string:
		return quoted(v)
	case [][]string:
		lists := make([]string, len(v))
		for i, list := range v {
			lists[i] = quoted(list)
		}
		return "[" + strings.Join(lists, ", ") + "]"
	}
	return fmt.Sprint(r.Value)
}

func quoted(list []string) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// Rows lists every setting in the order of the documentation, credentials cut out.
func (s Settings) Rows() []Row {
	s = s.Redacted()
	rows := make([]Row, len(keys))
	for i := range keys {
		rows[i] = Row{keys[i].name, keys[i].value(&s), s.Origin(keys[i].name)}
	}
	return rows
}

// Redacted returns a copy whose URLs hold no credentials, fit for traces and logs.
func (s Settings) Redacted() Settings {
	s.Driver.URLs = slices.Clone(s.Driver.URLs)
	for i, u := range s.Driver.URLs {
		s.Driver.URLs[i] = RedactURL(u)
	}
	return s
}

// onDisk is the JSON form of Settings: the values by the names of their keys.
type onDisk struct {
	VMID    int               `json:"vmid"`
	Name    string            `json:"name,omitempty"`
	Wanted  bool              `json:"wanted"`
	WhyNot  string            `json:"why_not,omitempty"`
	Values  map[string]any    `json:"values"`
	Origins map[string]string `json:"origins,omitempty"` // of what is no default
}

// MarshalJSON keeps the origins too. It cuts nothing: see Redacted.
func (s Settings) MarshalJSON() ([]byte, error) {
	d := onDisk{s.VMID, s.Name, s.Wanted, s.WhyNot, make(map[string]any, len(keys)), s.origins}
	for i := range keys {
		d.Values[keys[i].name] = keys[i].value(&s)
	}
	delete(d.Values, "enabled") // it is Wanted
	return json.Marshal(d)
}

// UnmarshalJSON reads what MarshalJSON wrote, also by another version of this
// program: keys that it does not know are passed over, missing ones have their default.
func (s *Settings) UnmarshalJSON(data []byte) error {
	var d onDisk
	if err := json.Unmarshal(data, &d); err != nil {
		return err
	}
	read := defaults(d.VMID)
	for i := range keys {
		k := &keys[i]
		raw, ok := d.Values[k.name]
		if !ok {
			continue
		}
		// Not checked: a redacted URL is none, and what was decided by stands.
		v, wrong := convert(k.field(&read), raw)
		if wrong != "" {
			return fmt.Errorf("read settings: %s: %s", k.name, wrong)
		}
		k.store(&read, v)
	}
	read.Name, read.Wanted, read.WhyNot, read.origins = d.Name, d.Wanted, d.WhyNot, d.Origins
	*s = read
	return nil
}
