package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/thinkheads-ai/pve-nvidia-hook/internal/test/labtest"
)

const rules = "../../contrib/prometheus/pve-nvidia-hook.rules.yml"

// promtool is Prometheus' own judge of metrics and rules, "" where it is missing.
// make test brings it.
func promtool(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"promtool", "../../bin/promtool"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv(labtest.EnvNeed) == "1" {
		t.Fatalf("%s=1, but promtool is missing (make bin/promtool)", labtest.EnvNeed)
	}
	return ""
}

func TestAlertsAreRaisedOnWhatIsWrongAndOnNothingElse(t *testing.T) {
	tool := promtool(t)
	if tool == "" {
		t.Skip("promtool is missing (make bin/promtool)")
	}
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", "testdata/rules_test.yml"}} {
		out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func TestAlertsNameOnlyMetricsThatAreWritten(t *testing.T) {
	text, err := os.ReadFile(rules)
	require.NoError(t, err)
	namesWritten(t, string(text))
}

// namesWritten fails where a text names a metric that is not written.
func namesWritten(t *testing.T, text string) {
	t.Helper()
	names := regexp.MustCompile(`pve_nvidia_hook_\w+`).FindAllString(text, -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.Contains(t, written(), "\n"+name+"{", name)
	}
}

func written() string {
	n := parse(nil)
	n.runs[101], n.module = lineOf(run(101)), "580.142"
	return string(n.text())
}

// Every metric and label that Grafana's dashboard asks for is written, every metric
// is shown, and Prometheus understands each question.
func TestDashboardShowsWhatIsWritten(t *testing.T) {
	text, err := os.ReadFile("../../contrib/grafana/pve-nvidia-hook.json")
	require.NoError(t, err)
	namesWritten(t, string(text))
	for _, metric := range regexp.MustCompile(`(?m)^# TYPE (\w+)`).FindAllStringSubmatch(written(), -1) {
		require.Contains(t, string(text), metric[1])
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	var asked strings.Builder
	asked.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			fmt.Fprintf(&asked, "  - record: panel%d\n    expr: %q\n", i, strings.ReplaceAll(target.Expr, "$instance", "pve1"))
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if label[1] == "instance" {
					continue // Prometheus adds it
				}
				metric := regexp.MustCompile(`pve_nvidia_hook_\w+`).FindString(target.Expr)
				require.Regexp(t, "(?m)^"+metric+`\{.*`+label[1]+"=", written(), panel.Title)
			}
		}
	}
	tool := promtool(t)
	if tool == "" {
		t.Skip("promtool is missing (make bin/promtool)")
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	require.NoError(t, os.WriteFile(file, []byte(asked.String()), 0o644))
	out, err := exec.CommandContext(t.Context(), tool, "check", "rules", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
