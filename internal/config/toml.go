package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/phoenix"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// set is one value that one file gives to one key.
type set struct {
	key     *key
	value   any
	origin  string // in words, for the user
	file    string // of a TOML file
	line    int
	phoenix *phoenix.Value // or of a file of Phoenix
}

// tomlFile is what one TOML file says.
type tomlFile struct {
	global     []set
	containers map[int][]set
}

// parseTOML reads a file of our own. The error is Mistakes and names them all;
// of mistakes in TOML itself the first of the file.
func parseTOML(name string, data []byte) (tomlFile, error) {
	p := tomlParser{name: name, file: tomlFile{containers: map[int][]set{}}}
	tree := map[string]any{}
	if _, err := toml.Decode(string(data), &tree); err != nil {
		return tomlFile{}, Mistakes{syntaxMistake(name, err)}
	}
	p.lines = locate(data)
	p.top(tree)
	return p.file, p.mistakes.plain()
}

func syntaxMistake(name string, err error) Mistake {
	m := Mistake{File: name, What: "TOML syntax"}
	var at toml.ParseError
	if errors.As(err, &at) {
		m.Line, m.Key, m.What = at.Position.Line, at.LastKey, "TOML syntax: "+withoutValue(at.Message)
		if what, _, twice := strings.Cut(m.What, " has already been defined"); twice { // by who added lines at the end of the file
			m.What = what + " stands twice: keep the first, and put what is new there"
		}
		header := strings.Contains(at.Message, "end table name")
		if header && strings.Contains(at.Message, `'\n'`) {
			m.Line-- // the library names the line after the unfinished one
		}
		if header || strings.HasPrefix(at.Message, "expected '.' or '='") {
			m.Key = "" // it is the key before the mistake
		}
	}
	return m
}

// withoutValue cuts what the TOML library quotes from the file: a password may
// stand there without its quotes. A single character tells nothing and stays.
func withoutValue(message string) string {
	if strings.HasPrefix(message, "expected value but found") {
		return "expected a value; text needs quotes"
	}
	i, j := strings.IndexByte(message, '"'), strings.LastIndexByte(message, '"')
	if j-i > len(`"\n"`) {
		return message[:i] + "..." + message[j+1:]
	}
	return message
}

type tomlParser struct {
	name     string
	lines    map[string]int
	file     tomlFile
	mistakes Mistakes
}

func (p *tomlParser) wrong(name, what, allowed string) {
	p.mistakes = append(p.mistakes, Mistake{p.name, lineOf(p.lines, name), name, what, allowed})
}

func (p *tomlParser) top(tree map[string]any) {
	for name, v := range tree {
		section, isTable := v.(map[string]any)
		switch {
		case name == "containers":
			p.containers(v)
		case !isTable && slices.Contains(sections(), name):
			p.wrong(name, "must be a section, is "+typeName(v), "["+name+"]")
		case !isTable:
			p.unknown(name)
		default:
			for short, value := range section {
				full := name + "." + short
				k := find(full)
				if k == nil {
					p.unknown(full)
				} else if s, ok := p.read(k, full, value); ok {
					p.file.global = append(p.file.global, s)
				}
			}
			if len(section) == 0 && !slices.Contains(sections(), name) {
				p.unknown(name)
			}
		}
	}
}

func (p *tomlParser) containers(v any) {
	tree, ok := v.(map[string]any)
	if !ok {
		p.wrong("containers", "must be sections, is "+typeName(v), "[containers.VMID]")
		return
	}
	for id, v := range tree {
		name := "containers." + id
		number, err := vmid.Parse(id)
		section, isTable := v.(map[string]any)
		switch {
		case err != nil:
			p.wrong(name, quote(id)+" is not a valid VMID", "a section [containers.VMID] with a VMID of 100 or more")
		case !isTable:
			p.wrong(name, "must be a section, is "+typeName(v), "["+name+"]")
		default:
			if p.file.containers[number] == nil {
				p.file.containers[number] = []set{} // named, even when it sets nothing
			}
			p.container(number, name, section)
		}
	}
}

// container reads a section [containers.VMID]: keys by their short name
// (version), or with the section they belong to (driver.version).
func (p *tomlParser) container(vmid int, name string, section map[string]any) {
	for _, short := range slices.Sorted(maps.Keys(section)) { // sorted: "is set twice" names the second
		v := section[short]
		full := name + "." + short
		if k := findShort(short); k != nil {
			p.containerKey(vmid, k, full, v)
			continue
		}
		sub, isTable := v.(map[string]any)
		if !isTable || !slices.Contains(sections(), short) {
			p.unknownFor(name, short)
			continue
		}
		for subShort, v := range sub {
			if k := find(short + "." + subShort); k == nil {
				p.unknownFor(name, short+"."+subShort)
			} else if k.scope == node {
				p.wrong(full+"."+subShort, "is set for the whole node, not for one container", "["+short+"]")
			} else {
				p.containerKey(vmid, k, full+"."+subShort, v)
			}
		}
	}
}

func (p *tomlParser) containerKey(vmid int, k *key, name string, v any) {
	s, ok := p.read(k, name, v)
	if !ok {
		return
	}
	for _, other := range p.file.containers[vmid] {
		if other.key == k {
			p.wrong(name, fmt.Sprintf("is set twice, also in line %d", other.line), "")
			return
		}
	}
	p.file.containers[vmid] = append(p.file.containers[vmid], s)
}

func (p *tomlParser) read(k *key, name string, raw any) (set, bool) {
	v, wrong := k.read(raw)
	if wrong != "" {
		p.wrong(name, wrong, k.allowed)
		return set{}, false
	}
	line := lineOf(p.lines, name)
	return set{key: k, value: v, origin: p.name + ":" + strconv.Itoa(line), file: p.name, line: line}, true
}

// sections lists the sections for the whole node.
func sections() []string {
	var all []string
	for i := range keys {
		if s := keys[i].section(); s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
