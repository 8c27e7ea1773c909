package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

// A bench that nobody runs rots: this runs each part of it once, with a small
// file, and looks at no time.
func TestQuickBenchFillsTheTableAndThePicture(t *testing.T) {
	labtest.Need(t)
	dir := t.TempDir()
	o := small()
	o.skips, o.nodes = 2, []int{3}
	o.markdown, o.svg = filepath.Join(dir, "table.md"), filepath.Join(dir, "picture.svg")
	var out, progress bytes.Buffer
	require.NoError(t, run(t.Context(), o, &out, &progress), progress.String())
	table, err := os.ReadFile(o.markdown)
	require.NoError(t, err)
	for _, text := range []string{out.String(), string(table)} {
		for _, want := range []string{"lxc-info alone", "this hook, push", "unpack alone", "nvidia-installers alone",
			"downloads of this hook", "peak memory", "this hook, shared, each later start", "one skip at boot, 3 containers", "at most 1.15 times"} {
			require.Contains(t, text, want)
		}
		require.NotContains(t, text, "NaN")
		require.NotContains(t, text, dir)
	}
	picture, err := os.ReadFile(o.svg)
	require.NoError(t, err)
	require.Contains(t, string(picture), "shell hook, run file cached")
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
}

func TestMedianAndSpread(t *testing.T) {
	r := row{samples: []float64{0.004, 0.001, 0.5}}
	require.Equal(t, "4.0 ms", r.value())
	require.Equal(t, "1.0 ms to 500 ms", r.spread())
	r.samples = append(r.samples, 0.002)
	require.Equal(t, "3.0 ms", r.value())
	require.Equal(t, []float64{0.004, 0.001, 0.5, 0.002}, r.samples, "the order of the runs is kept")
}

func TestTargetsAreJudgedByTheirLimits(t *testing.T) {
	r := report{sections: []section{{key: "skip", rows: []row{
		{name: hookName, samples: []float64{0.009}},
		{name: shellName, samples: []float64{0.026}},
		{name: "lxc-info alone", samples: []float64{0.003}},
	}}}}
	r.judge()
	require.Len(t, r.targets, 2, "what was not measured is not judged")
	require.Equal(t, target{"a skip, against lxc-info alone", "at most 3 times", "3.00 times", true}, r.targets[0])
	require.Equal(t, target{"a skip, faster than the shell hook", "at least 3 times", "2.89 times", false}, r.targets[1])
}

func TestWrongUseIsSaid(t *testing.T) {
	for _, args := range [][]string{{"-only", "skip,speed"}, {"-runs", "0"}, {"skip"}, {"-size", "-1"}} {
		_, err := parse(args)
		require.Error(t, err, strings.Join(args, " "))
	}
	o, err := parse([]string{"-only", "skip,cold", "-quick"})
	require.NoError(t, err)
	require.Equal(t, "go run ./internal/test/bench -quick -only skip,cold", o.command())
}
