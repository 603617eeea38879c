package publisher

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/release"
)

const setHelp = `Example: keep all machines from the newest release, and let them have it again:

  machinemon-release set /srv/download --disabled
  machinemon-release set /srv/download --disabled=false

Changes what the manifest says of the newest release, and nothing of the release
itself. In a signed directory it signs as "publish" does, also if nothing else
is asked for: run it at least every 45 days, when the targets' signature expires.`

func setCommand() *cobra.Command {
	var (
		q     release.SetRequest
		l     limitFlags
		least string
	)
	const (
		use   = "set DIR [--rollout PERCENT] [--disabled[=false]] [--min-version V] [--retry]"
		short = "Change rollout, disabled or min_version of the newest release, or sign it again"
	)
	c := onDirectory(use, short, setHelp, func(c *cobra.Command, dir string, now time.Time) (err error) {
		if q.Rollout, q.Disabled, err = l.given(c); err != nil {
			return err
		}
		if c.Flags().Changed("min-version") {
			if q.MinVersion = &least; least != "" && !manifest.ValidName(least) {
				return badName("min-version")
			}
		}
		q.Dir, q.Now, q.Note = dir, now, l.note
		m, changed, err := release.Set(q)
		if err != nil {
			return err
		}
		return say(c, m, changed, l.notes)
	})
	l.add(c)
	c.Flags().StringVar(&least, "min-version", "", "oldest `version` that it can follow; \"\" for any")
	c.Flags().BoolVar(&q.Retry, "retry", false, "raise the sequence: machines that rejected it may try again")
	keyFlags(c, &q.Keys)
	return c
}

// limitFlags are the flags of each verb that says which machines may install a release.
type limitFlags struct {
	rollout  int
	disabled bool
	notes    []string // what a release keeps or loses unasked
}

func (l *limitFlags) add(c *cobra.Command) {
	c.Flags().IntVar(&l.rollout, "rollout", 100, "offer it to this `percent` of the machines")
	c.Flags().BoolVar(&l.disabled, "disabled", false, "let no machine install it; --disabled=false takes that back")
}

// given returns the values of the flags; nil for one that was not given.
func (l *limitFlags) given(c *cobra.Command) (rollout *int, disabled *bool, err error) {
	if c.Flags().Changed("rollout") {
		rollout = &l.rollout
	}
	if c.Flags().Changed("disabled") {
		disabled = &l.disabled
	}
	if l.rollout < 0 || l.rollout > 100 {
		err = cli.Usagef("--rollout must be from 0 to 100")
	}
	return rollout, disabled, err
}

func (l *limitFlags) note(line string) { l.notes = append(l.notes, line) }
