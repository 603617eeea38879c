package inform

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

const agent = `
unit = "agent.service"
auto_update_enabled = true
[source]
url = "https://example.com/manifest.json"
[trust]
mode = "tuf"
product = "agent"
[[install]]
from = "agent"
to = "/usr/local/bin/agent"
`

// informer returns an Informer of a machine with these target files.
func informer(t *testing.T, targets map[string]string) *Informer {
	t.Helper()
	root := t.TempDir()
	i := &Informer{
		Tree:    state.Tree{Var: root + "/var", Run: root + "/run"},
		Targets: target.Dirs{Root: root, Vendor: "/vendor", Admin: "/admin"},
		Metrics: root + "/metrics",
		Wake:    func(string) error { return nil },
	}
	for _, dir := range []string{"/vendor", "/admin", "/metrics", "/var/swap", "/var/fetch", "/var/verify", "/var/notify", "/var/evidence", "/run"} {
		must(t, os.MkdirAll(root+dir, 0o755))
	}
	for name, text := range targets {
		must(t, os.WriteFile(root+"/admin/"+name+".toml", []byte(text), 0o644))
		for _, role := range []state.Role{state.RoleSwap, state.RoleFetch} {
			must(t, os.MkdirAll(i.Tree.Dir(role, name), 0o755))
		}
	}
	return i
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scraped returns the metrics of a target as Prometheus reads them: the value of each, by
// its name and labels.
func scraped(t *testing.T, i *Informer, name string) map[string]float64 {
	t.Helper()
	f, err := os.Open(filepath.Join(i.Metrics, fileOf(name)))
	must(t, err)
	defer f.Close()
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(f)
	must(t, err)
	values := map[string]float64{}
	for _, family := range families {
		if family.GetHelp() == "" || family.GetType() != dto.MetricType_GAUGE {
			t.Errorf("%s has help %q and type %v", family.GetName(), family.GetHelp(), family.GetType())
		}
		for _, m := range family.Metric {
			key := strings.TrimPrefix(family.GetName(), prefix)
			for _, l := range m.Label {
				if l.GetName() != "target" {
					key += " " + l.GetName() + "=" + l.GetValue()
				} else if l.GetValue() != name {
					t.Errorf("%s is about target %q", family.GetName(), l.GetValue())
				}
			}
			values[key] = m.Gauge.GetValue()
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent})
	at := time.Date(2026, 11, 29, 3, 0, 42, 500e6, time.UTC)
	must(t, i.Tree.SetStatus(state.RoleFetch, "agent", state.Status{Offer: &state.Offer{Version: "1.3.0", Checked: at.Add(-time.Minute),
		Signed: []state.Signed{{Role: "timestamp", Version: 7, Expires: at.Add(time.Hour)}}}}))
	must(t, i.Tree.SetStatus(state.RoleSwap, "agent", state.Status{
		Installed: &state.Release{Version: "1.2.0"}, Previous: &state.Release{Version: "1.1.0"},
		Rejected: []state.Rejection{{Version: "1.3.0", Archive: strings.Repeat("a", 64), Time: at}},
		Held:     &state.Hold{Since: at},
		Attempts: []state.Attempt{
			{ID: "20261128t030000000-00000000", Time: at.Add(-24 * time.Hour), Stage: "swap", Result: state.ResultCommitted, Version: "1.2.0"},
			{ID: "20261129t030000000-00000000", Time: at, Stage: "rollback", Result: state.ResultRolledBack, Version: "1.3.0"},
			{ID: "20261129t040000000-00000000", Time: at.Add(time.Hour), Stage: "rollback", Result: state.ResultDrilled, Version: "drill", Drill: true},
		}}))
	must(t, i.Inform("agent"))
	unix := func(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }
	want := map[string]float64{
		"usable": 1, "auto_update_enabled": 1, "held": 1, "rejected_releases": 1, "trial_open": 0, "rollback_failed": 0,
		"info installed=1.2.0 available=1.3.0 previous=1.1.0": 1,
		"last_check_timestamp_seconds":                        unix(at.Add(-time.Minute)),
		"last_attempt_timestamp_seconds":                      unix(at),
		"last_attempt_duration_seconds":                       42.5,
		"last_attempt_result result=rolled back":              1,
		"result_timestamp_seconds result=rolled back":         unix(at),
		"result_timestamp_seconds result=committed":           unix(at.Add(-24 * time.Hour)),
		"trust_expiry_timestamp_seconds role=timestamp":       unix(at.Add(time.Hour)),
	}
	got := scraped(t, i, "agent")
	for key, value := range want {
		if v, ok := got[key]; !ok || v != value {
			t.Errorf("%s is %v (%t), want %v", key, v, ok, value)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s is not expected", key)
		}
	}
	info, err := os.Stat(filepath.Join(i.Metrics, fileOf("agent")))
	must(t, err)
	if info.Mode().Perm() != 0o644 {
		t.Errorf("node_exporter cannot read a file of mode %v", info.Mode())
	}
}

// TestMetricsOfTrial: an open trial, and one whose rollback has failed.
func TestMetricsOfTrial(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent})
	for _, failure := range []string{"", "the disk is full"} {
		must(t, i.Tree.SetJournal(&state.Journal{Target: "agent", Attempt: state.NewAttempt(), Unit: "agent.service", From: "1.2.0", Version: "1.3.0", RollbackFailed: failure}))
		must(t, i.Inform("agent"))
		got := scraped(t, i, "agent")
		if got["info installed=1.2.0 available= previous="] != 1 {
			t.Errorf("before the first update: %v", got)
		}
		if got["trial_open"] != 1 || (got["rollback_failed"] == 1) != (failure != "") {
			t.Errorf("after %q: %v", failure, got)
		}
	}
}

// TestMetricsOfStranger: what a server calls its release cannot become a metric or a label
// of its own.
func TestMetricsOfStranger(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent})
	version := "1\"} 5\nmachinemon_update_held{target=\"agent\"} \\\x1b[2J" + strings.Repeat("9", 1<<16)
	must(t, i.Tree.SetStatus(state.RoleFetch, "agent", state.Status{Offer: &state.Offer{Version: version}}))
	must(t, i.Inform("agent"))
	got := scraped(t, i, "agent")
	if got["held"] != 0 || len(got) != 7 {
		t.Errorf("the metrics are %v", got)
	}
	for key := range got {
		if len(key) > 1200 || strings.ContainsAny(key, "\x1b\n") {
			t.Errorf("the name of the release is printed as it is: %d bytes", len(key))
		}
	}
}

// TestMetricsWithoutTarget: a broken target file has metrics, and a target that is gone has
// none.
func TestMetricsWithoutTarget(t *testing.T) {
	i := informer(t, map[string]string{"agent": agent, "broken": "unit = 3\n"})
	must(t, i.Inform("agent"))
	must(t, i.Inform("broken"))
	if got := scraped(t, i, "broken"); got["usable"] != 0 || got["held"] != 0 {
		t.Errorf("the metrics of a broken target are %v", got)
	}
	must(t, os.WriteFile(i.Metrics+"/other.prom", nil, 0o644))
	must(t, os.Remove(i.Targets.Root+"/admin/agent.toml"))
	must(t, i.Inform("broken"))
	for file, stays := range map[string]bool{fileOf("agent"): false, fileOf("broken"): true, "other.prom": true} {
		if _, err := os.Stat(filepath.Join(i.Metrics, file)); (err == nil) != stays {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestMonitoringExamples: the alert rules and the dashboard use metrics and results that
// exist, and every metric is in the manual. promtool checks the rules themselves.
func TestMonitoringExamples(t *testing.T) {
	read := func(file string) string {
		data, err := os.ReadFile("../../packaging/" + file)
		must(t, err)
		return string(data)
	}
	known := map[string]bool{}
	manual := strings.ReplaceAll(read("man/machinemon-update.8"), `\`, "")
	for _, m := range metrics {
		known[prefix+m.name] = true
		if !strings.Contains(manual, m.name) {
			t.Errorf("the manual has no metric %s", m.name)
		}
	}
	var dashboard struct{ Panels []struct{ Title string } }
	must(t, json.Unmarshal([]byte(read("examples/monitoring/grafana-dashboard.json")), &dashboard))
	if len(dashboard.Panels) < 10 {
		t.Errorf("the dashboard has %d panels", len(dashboard.Panels))
	}
	for _, file := range []string{"examples/monitoring/alerts.yml", "examples/monitoring/grafana-dashboard.json"} {
		text := read(file)
		used := regexp.MustCompile(prefix+`[a-z_]+`).FindAllString(text, -1)
		if len(used) < 8 {
			t.Errorf("%s uses only %q", file, used)
		}
		for _, name := range used {
			if !known[name] {
				t.Errorf("%s uses %s, which is no metric", file, name)
			}
		}
		for _, match := range regexp.MustCompile(`result=~?\\?"([a-z |]+)`).FindAllStringSubmatch(text, -1) {
			for result := range strings.SplitSeq(match[1], "|") {
				if state.Result(result).Priority() > 6 || !state.Result(result).Alarming() {
					t.Errorf("%s warns of the result %q", file, result)
				}
			}
		}
	}
}
