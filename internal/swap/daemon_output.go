package swap

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

const (
	saidLines = 5   // of the new program are kept
	saidAmong = 50  // of the unit's newest lines: the old program may write some meanwhile
	saidBytes = 200 // of each
	// saidTime is how long a rollback waits for them at most.
	saidTime = 2 * time.Second
)

// now is the time by which the journal's lines are told apart; zero, which costs
// nothing but them, where there is none.
func (s *Swapper) now() time.Duration {
	now, err := systemd.Monotonic()
	if err != nil {
		s.logf("cannot tell the time: %v", err)
	}
	return now
}

// eavesdrop reads the last lines that the new program wrote to systemd's journal until
// now, while the rollback goes on: the service is down meanwhile. The function that it
// returns waits for them and puts them into the journal of the trial. Trouble with
// that costs the lines, and no more.
func (s *Swapper) eavesdrop(ctx context.Context, j *state.Journal) (heard func()) {
	if j.Restarted == 0 || j.Said != nil {
		return func() {} // it was not started, or a killed rollback has heard it
	}
	until := s.now()
	type answer struct {
		lines []systemd.LogLine
		err   error
	}
	answers := make(chan answer, 1)
	ctx, cancel := context.WithTimeout(ctx, saidTime)
	go func() {
		lines, err := s.Systemd.LastLines(ctx, j.Unit, s.Boot, saidAmong)
		answers <- answer{lines, err}
	}()
	return func() {
		defer cancel()
		a := <-answers
		if a.err != nil {
			s.logf("%s: %v", describe(j), a.err)
		}
		j.Said = said(j, a.lines, until)
	}
}

// said picks the lines of the new program.
func said(j *state.Journal, lines []systemd.LogLine, until time.Duration) (said []string) {
	for _, l := range lines {
		if l.At < j.Restarted || l.At > until || l.Invocation != "" && l.Invocation == j.Invocation {
			continue // the old program's, also while it was stopped, and when it runs again
		}
		if line := plainLine(l.Text); line != "" {
			said = append(said, line)
		}
	}
	return said[max(0, len(said)-saidLines):]
}

// before is what a rollback ends: the unit's last run until then, "" where that is not
// known, and when that was.
type before struct {
	run string
	at  time.Duration
}

func (s *Swapper) before(ctx context.Context, j *state.Journal) before {
	u, err := s.Systemd.Unit(ctx, j.Unit)
	if err != nil {
		s.logf("%s: %v", describe(j), err)
	}
	return before{u.Invocation, s.now()}
}

// lastWords is the last line that the old program, which does not run, wrote to
// systemd's journal since the rollback started it, to go on an error: it may say why.
// systemd may have started it several times. It is "" where there is no such line;
// trouble with it costs the line, and no more.
func (s *Swapper) lastWords(ctx context.Context, j *state.Journal, b before) string {
	return s.lastLine(ctx, j, j.Unit, func(l systemd.LogLine) bool {
		return l.At >= b.at && l.Invocation != "" && l.Invocation != b.run // else the new program's, also while it was stopped
	})
}

// lastLine is the last line of a unit's processes that is wanted, to go on an error.
func (s *Swapper) lastLine(ctx context.Context, j *state.Journal, unit string, wanted func(systemd.LogLine) bool) string {
	ctx, cancel := context.WithTimeout(ctx, saidTime)
	defer cancel()
	lines, err := s.Systemd.LastLines(ctx, unit, s.Boot, saidAmong)
	if err != nil {
		s.logf("%s: %v", describe(j), err)
		return ""
	}
	for _, l := range slices.Backward(lines) {
		if line := plainLine(l.Text); line != "" && wanted(l) {
			return "; it said: " + line
		}
	}
	return ""
}

// runHook runs a program in a unit of its own. Where that fails the error ends with its
// last line, which says why.
func (s *Swapper) runHook(ctx context.Context, j *state.Journal, h systemd.Hook) error {
	since := s.now()
	err := s.Systemd.RunHook(ctx, h)
	if err == nil || s.Boot == "" {
		return err
	}
	if line := s.lastLine(ctx, j, h.Unit, func(l systemd.LogLine) bool { return l.At >= since }); line != "" {
		return fmt.Errorf("%w%s", err, line)
	}
	return err
}

// colour is what programs put around words for terminals.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// plainLine makes a short line of what a program wrote.
func plainLine(text string) string {
	text = strings.TrimSpace(colour.ReplaceAllString(text, ""))
	line := strings.TrimSpace(state.Printable(text))
	if len(line) > saidBytes {
		line = strings.ToValidUTF8(line[:saidBytes], "") + "…"
	}
	return line
}
