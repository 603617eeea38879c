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
		q        release.SetRequest
		rollout  int
		disabled bool
		least    string
	)
	const (
		use   = "set DIR [--rollout PERCENT] [--disabled[=false]] [--min-version V] [--retry]"
		short = "Change rollout, disabled or min_version of the newest release, or sign it again"
	)
	c := onDirectory(use, short, setHelp, func(c *cobra.Command, dir string, now time.Time) error {
		if c.Flags().Changed("rollout") {
			if q.Rollout = &rollout; rollout < 0 || rollout > 100 {
				return cli.Usagef("--rollout must be from 0 to 100")
			}
		}
		if c.Flags().Changed("disabled") {
			q.Disabled = &disabled
		}
		if c.Flags().Changed("min-version") {
			if q.MinVersion = &least; least != "" && !manifest.ValidName(least) {
				return badName("min-version")
			}
		}
		q.Dir, q.Now = dir, now
		m, changed, err := release.Set(q)
		if err != nil {
			return err
		}
		return say(c, m, changed)
	})
	c.Flags().IntVar(&rollout, "rollout", 100, "offer it to this `percent` of the machines")
	c.Flags().BoolVar(&disabled, "disabled", false, "let no machine install it; --disabled=false takes that back")
	c.Flags().StringVar(&least, "min-version", "", "oldest `version` that it can follow; \"\" for any")
	c.Flags().BoolVar(&q.Retry, "retry", false, "raise the sequence: machines that rejected it may try again")
	keyFlags(c, &q.Keys)
	return c
}
