package rollout

import (
	"fmt"
	"time"
)

// Counts says how many clients report what about a release since its plan started. Clients
// report by themselves, and the gate cannot verify it.
type Counts struct {
	Have    int `json:"have"`    // run it, and it has not failed there
	Failed  int `json:"failed"`  // could not install it, or went back
	Pending int `json:"pending"` // are to install it by themselves, and report neither
	// Off says that an administrator has stopped updates at the gate.
	Off bool `json:"updates_stopped,omitempty"`
}

// State is the state of a rollout by plan, for the page, the API and the publisher.
type State struct {
	Version  string     `json:"version"`
	Sequence int64      `json:"sequence"`
	Percent  int        `json:"percent"`
	Since    time.Time  `json:"since"`
	Next     int        `json:"next_percent,omitempty"` // 0: the current step is the last
	NextAt   *time.Time `json:"next_at,omitempty"`      // not before this time
	Waits    string     `json:"waits,omitempty"`        // why a step that is due does not begin
	Stopped  string     `json:"stopped,omitempty"`      // why; "" if it goes on
	Done     bool       `json:"done,omitempty"`
	Counts
	MaxFailures int       `json:"max_failures_percent"`
	Started     time.Time `json:"started"`
}

// State returns the state of the plan with these counts. While a plan is not over, Stopped
// says why the publisher is going to stop it.
func (p *Plan) State(c Counts, now time.Time) State {
	s := State{Version: p.Version, Sequence: p.Sequence, Percent: p.Percent, Since: p.Since, Stopped: p.Stopped, Done: p.Done, Counts: c,
		MaxFailures: p.MaxFailures, Started: p.Started}
	if p.Over() {
		return s
	}
	due := p.Due()
	s.Next, s.NextAt = p.Next(), &due
	switch {
	case p.fails(c):
		s.Stopped = fmt.Sprintf("%d of %d clients failed at the step of %d %%, and no more than %d %% of them may", c.Failed, c.Have+c.Failed, p.Percent, p.MaxFailures)
		s.Next, s.NextAt = 0, nil
	case c.Off:
		s.Waits = "updates are stopped at the gate"
	case now.Before(due):
	case s.Next != 0 && c.Pending > c.Have+c.Failed:
		s.Waits = fmt.Sprintf("%d of the clients at %d %% have not reported it yet", c.Pending, p.Percent)
	}
	return s
}

// fails reports whether more clients failed than may.
func (p *Plan) fails(c Counts) bool {
	return c.Failed*100 > p.MaxFailures*(c.Have+c.Failed)
}

// Move says how a plan changes.
type Move int

const (
	Stay   Move = iota
	Raise       // to the next step
	Stop        // the release fails too often
	Finish      // the last step has taken long enough
)

// Move returns what is to be done now.
func (s State) Move(now time.Time) Move {
	switch {
	case s.Done:
		return Stay
	case s.Stopped != "":
		return Stop
	case s.NextAt == nil || now.Before(*s.NextAt) || s.Waits != "":
		return Stay
	case s.Next == 0:
		return Finish
	}
	return Raise
}

// Move changes the plan. s is the state that requires it.
func (p *Plan) Move(m Move, s State, now time.Time) {
	switch m {
	case Raise:
		p.Percent = s.Next
	case Stop:
		p.Percent, p.Stopped = 0, s.Stopped
	case Finish:
		p.Done = true
		return
	}
	p.Since = now.UTC().Truncate(time.Second)
}

// late is the time after which a step that is due and has not begun is reported: the timer
// runs every five minutes.
const late = 15 * time.Minute

// Summary returns the state as a sentence for people. now is the time at which it is shown,
// in the location in which times are shown.
func (s State) Summary(now time.Time) string {
	at := func(t time.Time) string { return t.In(now.Location()).Format("2006-01-02 15:04 MST") }
	text := fmt.Sprintf("%d %% since %s: %d have it, %d failed, %d are to install it", s.Percent, at(s.Since), s.Have, s.Failed, s.Pending)
	switch {
	case s.Stopped != "":
		return text + "; stopped: " + s.Stopped
	case s.Done:
		return text + "; the plan is done"
	case s.Waits != "":
		return text + "; waits: " + s.Waits
	case s.Next == 0:
		return text + "; the last step, watched until " + at(*s.NextAt)
	case now.After(s.NextAt.Add(late)):
		return text + fmt.Sprintf("; %d %% is due since %s (hint: systemctl list-timers 'machinemon-release-rollout@*')", s.Next, at(*s.NextAt))
	}
	return text + fmt.Sprintf("; %d %% from %s on", s.Next, at(*s.NextAt))
}
