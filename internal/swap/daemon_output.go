package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

const (
	saidLines = 5   // lines of the new program are kept
	saidAmong = 50  // lines of the unit are read: the old program may write some, too
	saidBytes = 200 // bytes of each line are kept
	// saidTime is how long a rollback waits for these lines at most.
	saidTime = 2 * time.Second
)

// now returns the monotonic time, by which the journal's lines are told apart. On an
// error it returns zero, which costs only those lines.
func (s *Swapper) now() time.Duration {
	now, err := systemd.Monotonic()
	if err != nil {
		s.logf("cannot read the clock: %v", err)
	}
	return now
}

// eavesdrop reads the last lines that the new program wrote to systemd's journal until
// now. It does so while the rollback goes on, because the service is down meanwhile. The
// function that it returns waits for the lines and puts them into the trial's journal. A
// failure costs only the lines.
func (s *Swapper) eavesdrop(ctx context.Context, j *state.Journal) (heard func()) {
	if j.Restarted == 0 || j.Said != nil {
		return func() {} // it was not started, or a killed rollback has these lines already
	}
	until := s.now()
	var lines []systemd.LogLine
	var err error
	read := make(chan struct{})
	go func() {
		defer close(read)
		for _, unit := range j.Units() {
			more, merr := s.lastLines(ctx, unit)
			lines, err = append(lines, more...), errors.Join(err, merr)
		}
		slices.SortStableFunc(lines, func(a, b systemd.LogLine) int { return cmp.Compare(a.At, b.At) })
	}()
	return func() {
		<-read
		s.logError(j, err)
		j.Said = said(j, lines, until)
	}
}

func (s *Swapper) lastLines(ctx context.Context, unit string) ([]systemd.LogLine, error) {
	ctx, cancel := context.WithTimeout(ctx, saidTime)
	defer cancel()
	return s.Systemd.LastLines(ctx, unit, s.Boot, saidAmong)
}

// said returns the last lines that the new program wrote before until.
func said(j *state.Journal, lines []systemd.LogLine, until time.Duration) (said []string) {
	for _, l := range lines {
		ofOld := l.Invocation != "" && slices.Contains(ran(j), l.Invocation) || slices.Contains(j.MainPIDs, l.PID)
		if l.At < j.Restarted || l.At > until || ofOld {
			continue // from the old program: before the swap, while it stopped, or after it came back
		}
		if line := plainLine(l.Text); line != "" {
			said = append(said, line)
		}
	}
	return said[max(0, len(said)-saidLines):]
}

// lastWords is called when a rollback begins. The function that it returns returns the
// last line that the old program wrote to systemd's journal since the rollback started
// it, perhaps several times, for the end of an error: the line may say why the program
// does not run.
func (s *Swapper) lastWords(ctx context.Context, j *state.Journal) func() string {
	new, err := s.unitsOf(ctx, j)
	s.logError(j, err)
	began := s.now()
	return func() (line string) {
		for _, unit := range j.Units() {
			line = cmp.Or(line, s.lastLine(ctx, j, unit, func(l systemd.LogLine) bool {
				ofNew := slices.ContainsFunc(new, func(u systemd.Unit) bool { return u.Invocation == l.Invocation })
				return l.At >= began && l.Invocation != "" && !ofNew
			}))
		}
		return line
	}
}

// lastLine returns the last wanted line of a unit, for the end of an error, or "".
func (s *Swapper) lastLine(ctx context.Context, j *state.Journal, unit string, wanted func(systemd.LogLine) bool) string {
	lines, err := s.lastLines(ctx, unit)
	if err != nil {
		s.logError(j, err)
		return ""
	}
	for _, l := range slices.Backward(lines) {
		if line := plainLine(l.Text); line != "" && wanted(l) {
			return state.SaidMark + line
		}
	}
	return ""
}

// runHook runs a program in a unit of its own. If that fails, the error ends with the
// program's last line, which may say why.
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

// colour matches the control sequences that programs write for terminals.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// plainLine returns a program's line without control sequences, cut to saidBytes.
func plainLine(text string) string {
	text = strings.TrimSpace(colour.ReplaceAllString(text, ""))
	line := strings.TrimSpace(state.Printable(text))
	if len(line) > saidBytes {
		line = strings.ToValidUTF8(line[:saidBytes], "") + "…"
	}
	return line
}
