package publisher

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/release"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

const rolloutHelp = `Example: offer the newest release to 1 % of the machines, and to more every six
hours, as long as no more than 10 % of those that tried it failed:

  machinemon-release rollout /srv/download --plan 1,10,50,100 --after 6h

The plan is carried out by machinemon-release-rollout@.timer on the machine of
the check-in gate, which it asks how many clients have the release and how many
failed. Above --failures it stops the rollout, at 0 %. A step that is due waits
until half of the clients for which the release is have reported.

In a signed directory all steps are signed now, with the targets key. The timer
needs only the online key.

Without --plan, it shows the state of the plan. "set --rollout", "set --disabled",
another plan and another release end it.`

func rolloutCommand() *cobra.Command {
	var (
		q       release.StartRequest
		advance bool
	)
	const use = "rollout DIR [--plan PERCENT,… --after TIME [--failures PERCENT] | --advance]"
	c := onDirectory(use, "Offer the newest release to more and more machines", rolloutHelp, func(c *cobra.Command, dir string, now time.Time) error {
		plan := c.Flags().Changed("plan")
		switch {
		case plan != c.Flags().Changed("after") || plan && advance || !plan && c.Flags().Changed("failures"):
			return cli.Usagef("--plan needs --after, and goes without --advance; --failures goes with --plan")
		case plan:
			q.Dir, q.Now = dir, now
			return startRollout(c, q)
		case advance:
			return advanceRollout(c, dir, q.Keys, now)
		}
		return showRollout(c, dir, now)
	})
	c.Flags().IntSliceVar(&q.Steps, "plan", nil, "offer it to these shares of the machines, in `percent`, one after the other")
	c.Flags().DurationVar(&q.After, "after", 0, "the `time` that each step takes at least, such as 6h")
	c.Flags().IntVar(&q.MaxFailures, "failures", 10, "stop if more than this `percent` of the clients that tried it failed")
	c.Flags().BoolVar(&advance, "advance", false, "begin the next step if it is due; the timer does this")
	keyFlags(c, &q.Keys)
	return c
}

func startRollout(c *cobra.Command, q release.StartRequest) error {
	if err := rollout.CheckSteps(q.Steps); err != nil {
		return cli.Usagef("--plan: %v", err)
	}
	if q.After < time.Minute {
		return cli.Usagef("--after must be at least 1m")
	}
	if q.MaxFailures < 0 || q.MaxFailures > 99 {
		return cli.Usagef("--failures must be from 0 to 99")
	}
	p, err := release.Start(q)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s is for %d %% of the machines now; machinemon-release-rollout@.timer goes on from %s on\n",
		p.Version, p.Percent, p.Due().In(q.Now.Location()).Format("2006-01-02 15:04 MST"))
	return err
}

func askGate(p *rollout.Plan) (rollout.Counts, error) { return p.Ask(rollout.GateSocket) }

// advanceRollout returns an error in the run that stops the rollout, so that its unit fails.
func advanceRollout(c *cobra.Command, dir string, k release.Keys, now time.Time) error {
	s, moved, err := release.Advance(dir, k, askGate, now)
	if err != nil || moved == rollout.Stay {
		return err
	}
	if moved == rollout.Stop {
		return fmt.Errorf("stopped the rollout of %s in %s: %s", s.Version, dir, s.Stopped)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", s.Version, s.Summary(now))
	return err
}

func showRollout(c *cobra.Command, dir string, now time.Time) error {
	p, err := rollout.Read(dir)
	if err != nil {
		return fmt.Errorf("cannot read the plan in %s: %w", dir, err)
	}
	if p == nil {
		_, err = fmt.Fprintln(c.OutOrStdout(), "there is no plan (hint: machinemon-release rollout --help)")
		return err
	}
	counts, err := askGate(p)
	if err != nil {
		fmt.Fprintf(c.OutOrStdout(), "%s: %d %% since %s\n", p.Version, p.Percent, p.Since.In(now.Location()).Format("2006-01-02 15:04 MST"))
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", p.Version, p.State(counts, now).Summary(now))
	return err
}
