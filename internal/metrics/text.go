package metrics

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/version"
	"github.com/thinkheads-ai/pve-nvidia-hook/internal/vmid"
)

// node is what the file tells.
type node struct {
	runs   map[int]line
	module version.Driver
}

// line is what it tells of a container, as text of the format.
type line struct {
	at, ok, seconds   string // numbers
	wanted, installed version.Driver
	shared            string // yes or no
}

const (
	prefix   = "pve_nvidia_hook_"
	atName   = prefix + "last_run_timestamp_seconds"
	okName   = prefix + "last_run_success"
	tookName = prefix + "last_run_duration_seconds"
	infoName = prefix + "driver_info"
	hostName = prefix + "host_module_info"
)

func lineOf(r Run) line {
	l := line{
		at: strconv.FormatFloat(float64(r.Ended.UnixMilli())/1000, 'f', 3, 64), ok: "0",
		seconds: strconv.FormatFloat(r.Duration.Seconds(), 'f', 3, 64), wanted: r.Wanted,
	}
	if r.OK {
		l.ok = "1"
	}
	if r.Wanted == "" {
		return l
	}
	l.installed, l.shared = r.Installed, "no"
	if r.Shared {
		l.shared = "yes"
	}
	return l
}

// text writes the exposition format: all lines of one metric together, after its
// HELP and TYPE.
func (n *node) text() []byte {
	var b bytes.Buffer
	b.Grow(1024 + 400*len(n.runs))
	vmids := slices.Sorted(maps.Keys(n.runs))
	of := func(name, help string, each func(line) (labels, value string)) {
		head(&b, name, help)
		for _, id := range vmids {
			labels, value := each(n.runs[id])
			if value == "" {
				continue
			}
			b.WriteString(name)
			b.WriteString(`{vmid="`)
			b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(id), 10))
			b.WriteString(`"`)
			b.WriteString(labels)
			b.WriteString("} ")
			b.WriteString(value)
			b.WriteByte('\n')
		}
	}
	of(atName, "When the last run on the container ended, in seconds since 1970.", func(l line) (string, string) { return "", l.at })
	of(okName, "Whether the last run found or made all as it should be.", func(l line) (string, string) { return "", l.ok })
	of(tookName, "How long the last run took.", func(l line) (string, string) { return "", l.seconds })
	of(infoName, "The driver that the container should have, the one that it has, and whether the node shares that with it.", func(l line) (string, string) {
		if l.wanted == "" {
			return "", ""
		}
		return `,wanted="` + string(l.wanted) + `",installed="` + string(l.installed) + `",shared="` + l.shared + `"`, "1"
	})
	head(&b, hostName, "The NVIDIA kernel module that is loaded.")
	if n.module != "" {
		b.WriteString(hostName + `{version="` + string(n.module) + "\"} 1\n")
	}
	return b.Bytes()
}

func head(b *bytes.Buffer, name, help string) {
	b.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " gauge\n")
}

// parse reads what text wrote. What it would not have written is left out: others
// may be able to write the file.
func parse(text []byte) *node {
	n := &node{runs: map[int]line{}}
	for s := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(s, "\n"), "{")
		labels, value, ok := strings.Cut(rest, "} ")
		if !ok {
			continue
		}
		if name == hostName {
			if v, ok := quoted(labels, `version="`); ok && value == "1" {
				n.module = v
			}
			continue
		}
		first, more, _ := strings.Cut(strings.TrimPrefix(labels, `vmid="`), `"`)
		id, err := vmid.Parse(first)
		if err != nil || !strings.HasPrefix(labels, `vmid="`) {
			continue
		}
		l := n.runs[id]
		switch {
		case name == infoName && value == "1":
			wanted, rest, _ := strings.Cut(more, `",installed="`)
			installed, shared, _ := strings.Cut(rest, `",shared="`)
			w, wok := quoted(wanted+`"`, `,wanted="`)
			i, iok := quoted(`"`+installed+`"`, `"`)
			if !wok || !iok || w == "" || shared != `yes"` && shared != `no"` {
				continue
			}
			l.wanted, l.installed, l.shared = w, i, strings.TrimSuffix(shared, `"`)
		case more != "" || !isNumber(value):
			continue
		case name == atName:
			l.at = value
		case name == okName:
			l.ok = value
		case name == tookName:
			l.seconds = value
		default:
			continue
		}
		n.runs[id] = l
	}
	return n
}

// quoted returns the version between before and a closing quote, which may be "".
func quoted(s, before string) (version.Driver, bool) {
	inner, ok := strings.CutPrefix(s, before)
	inner, closed := strings.CutSuffix(inner, `"`)
	if !ok || !closed {
		return "", false
	}
	if inner == "" {
		return "", true
	}
	v, err := version.Parse(inner)
	return v, err == nil
}

// isNumber takes the numbers that lineOf writes: digits and one point.
func isNumber(s string) bool {
	whole, part, point := strings.Cut(s, ".")
	return len(s) <= 24 && digits(whole) && (!point || digits(part))
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
