package inform

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// metric is a family of the metrics of a target, all of which are gauges.
type metric struct{ name, help string }

// The metrics, in the order of the file. Their names never change, because monitoring
// matches them. The help is the same in the files of all targets, or else node_exporter would
// refuse them.
var (
	mUsable   = metric{"usable", "Whether the target file can be used."}
	mInfo     = metric{"info", "The versions that are installed and available, and the previous one."}
	mEnabled  = metric{"auto_update_enabled", "Whether scheduled runs install what they find."}
	mHeld     = metric{"held", "Whether the operator holds the target."}
	mRejected = metric{"rejected_releases", "How many releases failed their trial here, or were skipped."}
	mTrial    = metric{"trial_open", "Whether a release is on trial."}
	mUnsettld = metric{"rollback_failed", "Whether a rollback has failed and the operator must decide."}
	mChecked  = metric{"last_check_timestamp_seconds", "When the source last told what is available."}
	mTime     = metric{"last_attempt_timestamp_seconds", "When the last attempt ended."}
	mDuration = metric{"last_attempt_duration_seconds", "How long the last attempt took."}
	mResult   = metric{"last_attempt_result", "How the last attempt ended, as the label result."}
	mResults  = metric{"result_timestamp_seconds", "When an attempt last ended with this result, as far as is recorded."}
	mExpiry   = metric{"trust_expiry_timestamp_seconds", "When the signatures of what is available expire, by role."}

	metrics = []metric{mUsable, mInfo, mEnabled, mHeld, mRejected, mTrial, mUnsettld, mChecked, mTime, mDuration, mResult, mResults, mExpiry}
)

// prefix is that of all names of metrics.
const prefix = "machinemon_update_"

// samples are the values of a target's metrics.
type samples struct {
	target string
	lines  map[string]string // by the metric's name
}

func (s *samples) add(m metric, value float64, labels ...string) {
	pairs := []string{"target", s.target}
	pairs = append(pairs, labels...)
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, `,%s="%s"`, pairs[i], escapeLabel(pairs[i+1]))
	}
	s.lines[m.name] += fmt.Sprintf("%s%s{%s} %s\n", prefix, m.name, b.String()[1:], strconv.FormatFloat(value, 'f', -1, 64))
}

func (s *samples) flag(m metric, on bool) {
	value := 0.0
	if on {
		value = 1
	}
	s.add(m, value)
}

func (s *samples) time(m metric, at time.Time, labels ...string) {
	s.add(m, seconds(at.Sub(time.Unix(0, 0))), labels...)
}

// seconds returns a duration to the millisecond.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// escapeLabel escapes a label's value, which a stranger may have chosen.
func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(state.Line(s))
}

// metricsOf returns the metrics of a target in the text format of Prometheus.
func metricsOf(f facts) string {
	s := &samples{target: f.name, lines: map[string]string{}}
	s.flag(mUsable, f.unusable == nil)
	if f.unusable == nil {
		s.flag(mEnabled, f.target.AutoUpdateEnabled)
	}
	var available string
	if o := f.fetched.Offer; o != nil {
		available = o.Version
		if !o.Checked.IsZero() {
			s.time(mChecked, o.Checked)
		}
		for _, signed := range f.signed() {
			s.time(mExpiry, signed.Expires, "role", signed.Role)
		}
	}
	var installed, previous string
	if f.status.Installed != nil {
		installed = f.status.Installed.Version
	} else if n := len(f.attempts); n > 0 {
		installed = f.attempts[n-1].From // as the program itself said before its first update
	}
	if f.status.Previous != nil {
		previous = f.status.Previous.Version
	}
	s.add(mInfo, 1, "installed", cmp.Or(installed, state.Unknown), "available", available, "previous", previous)
	s.flag(mHeld, f.status.Held != nil)
	s.add(mRejected, float64(len(f.status.Rejected)))
	s.flag(mTrial, f.journal != nil)
	s.flag(mUnsettld, f.journal != nil && f.journal.RollbackFailed != "")
	// A drill says nothing about how updates go.
	attempts := slices.DeleteFunc(slices.Clone(f.attempts), state.Attempt.Exercise)
	if n := len(attempts); n > 0 {
		last := attempts[n-1]
		s.time(mTime, last.Time)
		if began, ok := last.ID.Began(); ok {
			s.add(mDuration, max(0, seconds(last.Time.Sub(began))))
		}
		s.add(mResult, 1, "result", string(last.Result))
	}
	latest := map[state.Result]time.Time{}
	var results []state.Result
	for _, a := range attempts {
		if _, seen := latest[a.Result]; !seen {
			results = append(results, a.Result)
		}
		latest[a.Result] = a.Time
	}
	for _, r := range results {
		s.time(mResults, latest[r], "result", string(r))
	}
	var b strings.Builder
	for _, m := range metrics {
		if lines := s.lines[m.name]; lines != "" {
			fmt.Fprintf(&b, "# HELP %s%s %s\n# TYPE %[1]s%[2]s gauge\n%[4]s", prefix, m.name, m.help, lines)
		}
	}
	return b.String()
}
