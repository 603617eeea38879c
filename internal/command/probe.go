package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// probed is the JSON of probe.
type probed struct {
	Target   string        `json:"target"`
	Unit     string        `json:"unit"`
	Exit     int           `json:"exit"`
	Standing bool          `json:"standing"`
	Detail   string        `json:"detail,omitempty"` // why the unit is not as it must be
	Probes   []probeResult `json:"probes"`

	units []string
	hint  string // how to make the unit judgeable
}

// probeResult is one probe in probed.
type probeResult struct {
	Probe      string     `json:"probe"`
	Passed     bool       `json:"passed"`
	Unknown    bool       `json:"unknown,omitempty"`
	Foreign    bool       `json:"foreign,omitempty"` // a program outside of the unit may answer
	Detail     string     `json:"detail"`            // the answer, or why the probe did not pass
	Millis     int64      `json:"millis"`
	LastPassed *time.Time `json:"last_passed,omitempty"` // nil if it never passed on this machine
}

// probe makes the gate run the probes now and shows the results. Probes that pass are
// recorded, as after the baseline of an attempt.
func (a *app) probe(args []string) error {
	t, err := a.load(args[0])
	if err != nil {
		return err
	}
	if err := a.tree.Leaving(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	now, known, err := a.probing(ctx, t)
	if err != nil {
		return err
	}
	p := probedOf(t, now, known)
	a.worst(p.Exit)
	return a.print(p, p.text(a.targets.Admin))
}

// probing runs the gate's look at a target without an attempt. It holds both locks of the
// target, so that no attempt begins meanwhile.
func (a *app) probing(ctx context.Context, t *target.Target) (*state.Baseline, state.Passed, error) {
	busyWith := func(what string) error {
		return state.Fail(state.ResultNotAttempted, "cannot probe %s now: %s", t.Name, what)
	}
	unlock, err := a.tree.LockOperator(t.Name)
	if errors.Is(err, state.ErrLocked) {
		return nil, nil, busyWith("another machinemon-update is at work on it")
	}
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if err := a.tree.MakeSwapDir(t.Name); err != nil {
		return nil, nil, err
	}
	release, err := a.tree.Lock(t.Name)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	conn, err := systemd.Connect(ctx, unitsOf(t.Name)...)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	if j, err := a.tree.Journal(t.Name); err != nil {
		return nil, nil, err
	} else if j != nil {
		return nil, nil, busyWith(openTrial(j))
	}
	units, err := conn.Units(ctx, unitsOf(t.Name)...)
	if err != nil {
		return nil, nil, err
	}
	if idle, err := (&follower{tree: a.tree, conn: conn, name: t.Name}).idle(units); err != nil {
		return nil, nil, err
	} else if !idle {
		return nil, nil, busyWith("an attempt is under way")
	}
	now, err := a.gateLooks(ctx, conn, t)
	if err != nil {
		return nil, nil, err
	}
	var known state.Passed
	err = a.tree.Update(state.RoleSwap, t.Name, func(st *state.Status) {
		known = st.Passed(t.ProbeKeys())
		st.Learn(known, now.Probes)
		if len(known) == 0 && now.Standing && st.Installed != nil {
			st.Installed.Unproven = "" // no probe remains that could prove it
		}
	})
	return now, known, err
}

// openTrial returns why a target with an open trial is not probed.
func openTrial(j *state.Journal) string {
	if j.RollbackFailed == "" {
		return onTrial(cmp.Or(j.Version, state.Unknown))
	}
	return fmt.Sprintf("the rollback of %s failed, and its trial waits for you (hint: %s)", state.Called(j.Version), state.SettleHint(j.Target))
}

// gateLooks runs the unit of the gate's look before a swap and returns its report.
func (a *app) gateLooks(ctx context.Context, conn *systemd.Conn, t *target.Target) (now *state.Baseline, err error) {
	name := t.Name
	attempt, gate := state.NewAttempt(), unit("baseline", name)
	main, err := state.MainID(t.Health.Main)
	if err != nil {
		return nil, err
	}
	if err := a.tree.SetRequest(name, state.Request{Attempt: attempt, Verb: state.VerbProbe, MainID: main}); err != nil {
		return nil, err
	}
	defer func() {
		_, terr := a.tree.TakeRequest(name)
		err = errors.Join(err, terr)
	}()
	if err := conn.ResetFailed(ctx, gate); err != nil {
		return nil, err
	}
	if err := conn.Start(ctx, gate); err != nil {
		return nil, fmt.Errorf("cannot probe %s: %w (hint: journalctl -u %s)", name, err, gate)
	}
	now, err = a.tree.Look(name, attempt)
	if err == nil && now == nil {
		err = fmt.Errorf("cannot probe %s: %s has written no report (hint: journalctl -u %s)", name, gate, gate)
	}
	return now, err
}

// probedOf combines the gate's answers with the target's own probes. The gate is not
// trusted about other probes.
func probedOf(t *target.Target, now *state.Baseline, known state.Passed) probed {
	p := probed{Target: t.Name, Unit: t.Unit, units: t.Units(), Standing: now.Standing, Detail: now.Detail, Probes: []probeResult{}}
	if now.Unjudgeable != "" && t.Health.Main != "" {
		p.hint = state.MainHint(t.Name)
	}
	found := map[string]state.ProbeResult{}
	for _, r := range now.Probes {
		found[r.Key] = r
	}
	good := now.Standing
	for _, probe := range t.Health.Probes {
		r := found[probe.Key()]
		rests := r.Unknown && r.Detail == state.NotTried // no unit runs that could answer, and none must
		good = good && (r.Passed || rests)
		one := probeResult{Probe: probe.String(), Passed: r.Passed, Unknown: r.Unknown, Foreign: probe.Foreign, Detail: r.Detail, Millis: r.Millis}
		if at := known[probe.Key()]; !at.IsZero() {
			one.LastPassed = &at
		}
		p.Probes = append(p.Probes, one)
	}
	if !good {
		p.Exit = state.ResultFailed.Exit()
	}
	return p
}

// text returns p for people.
func (p probed) text(admin string) string {
	names := strings.Join(p.units, ", ")
	line := fmt.Sprintf("%s: %s stands", p.Target, names)
	if len(p.units) == 0 {
		line = p.Target + ": no unit runs it"
	}
	if !p.Standing {
		line = fmt.Sprintf("%s: %s is not as it must be: %s", p.Target, names, p.Detail)
		if p.hint != "" {
			line += " (hint: " + p.hint + ")"
		}
	}
	line = state.Printable(line) + "\n"
	if len(p.Probes) == 0 {
		decides := "how the unit stands"
		if len(p.units) == 0 {
			decides = "its version_command"
		}
		return line + "  there are no probes: " + decides + " is all that decides\n"
	}
	rows := []row{{cells: []string{"PROBE", "RESULT", "TIME"}}}
	for _, r := range p.Probes {
		result := "fails"
		switch {
		case r.Detail == state.NotTried:
			result = state.NotTried
		case r.Unknown:
			result = "no answer"
		case r.Passed:
			result = "passes"
		}
		one := row{cells: []string{r.Probe, result, fmt.Sprintf("%d ms", r.Millis)}}
		if result != state.NotTried {
			detail := r.Detail
			if r.Passed && r.Foreign {
				detail += ", by any program (foreign = true)"
			}
			one.note(detail)
		}
		switch {
		case result == state.NotTried: // it says nothing about the probe, so there is no hint
			if r.LastPassed != nil {
				one.note("it last passed here at " + r.LastPassed.Local().Format(minutes))
			}
		case r.LastPassed == nil:
			one.note(fmt.Sprintf("it never passed here, and is not believed (hint: mend it in %s/%s.toml)", admin, p.Target))
		case !r.Passed:
			one.note("it last passed here at " + r.LastPassed.Local().Format(minutes) + ": an update must make it pass")
		}
		rows = append(rows, one)
	}
	return line + table(rows)
}
