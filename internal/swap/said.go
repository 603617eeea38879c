package swap

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

const (
	saidLines = 5   // of the new program are kept
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

// said are the last lines that the new program wrote to systemd's journal. Trouble
// with that costs the lines, and no more.
func (s *Swapper) said(ctx context.Context, j *state.Journal) (said []string) {
	if j.Restarted == 0 {
		return nil // it was not started
	}
	ctx, cancel := context.WithTimeout(ctx, saidTime)
	defer cancel()
	lines, err := s.Systemd.LastLines(ctx, j.Unit, s.Boot, saidLines)
	if err != nil {
		s.logf("%s: %v", describe(j), err)
	}
	for _, l := range lines {
		if l.At < j.Restarted || l.Invocation != "" && l.Invocation == j.Invocation {
			continue // the old program's, also while it was stopped
		}
		if line := plainLine(l.Text); line != "" {
			said = append(said, line)
		}
	}
	return said
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
