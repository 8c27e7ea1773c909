package metrics

import (
	"os"
	"os/exec"
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
	n := parse(nil)
	n.runs[101], n.module = lineOf(run(101)), "580.142"
	written := string(n.text())
	text, err := os.ReadFile(rules)
	require.NoError(t, err)
	names := regexp.MustCompile(`pve_nvidia_hook_\w+`).FindAllString(string(text), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		require.True(t, strings.Contains(written, "\n"+name+"{"), name)
	}
}
