package publisher

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/release"
)

// renew has the verb that renews each role's signature.
var renew = map[string]string{"root": "rotate", "targets": "set", "snapshot": "refresh", "timestamp": "refresh"}

func statusCommand() *cobra.Command {
	return onDirectory("status DIR", "Show the roles and keys of a signed directory, and what expires next", "", func(c *cobra.Command, dir string, now time.Time) error {
		s, err := release.ReadStatus(dir, now)
		if err != nil {
			return err
		}
		rows := [][]string{{"ROLE", "VERSION", "EXPIRES", "NEEDS", "KEYS"}}
		for _, r := range s.Roles {
			version, expires := "-", "-"
			if r.Version > 0 {
				version, expires = fmt.Sprint(r.Version), r.Expires.UTC().Format(time.DateOnly)
			}
			rows = append(rows, []string{string(r.Role), version, expires, r.Of(), strings.Join(release.Short(r.Keys), " ")})
		}
		if _, err := io.WriteString(c.OutOrStdout(), cli.Table(rows)); err != nil {
			return err
		}
		return summary(c, s, now)
	})
}

// summary returns an error if something has expired, because then no machine updates.
func summary(c *cobra.Command, s *release.Status, now time.Time) error {
	out := c.OutOrStdout()
	if m := s.Manifest; m == nil {
		fmt.Fprintln(out, "nothing is published yet")
	} else {
		fmt.Fprintf(out, "publishes %s %s, sequence %d%s\n", m.Product, m.Version, m.Sequence, limits(m))
	}
	switch d := s.Draft; {
	case d == nil:
	case d.Err != nil:
		fmt.Fprintf(out, "cannot sign %v\n", d.Err)
	default:
		fmt.Fprintf(out, "%s awaits signatures:\n  %s\n", d.File, strings.Join(d.Changes, "\n  "))
	}
	next := s.NextToExpire()
	if next.Expires.Before(now) {
		return fmt.Errorf("%s expired %s: no machine updates (hint: %s)", next.Signed, in(next.Expires, now), renew[string(next.Role)])
	}
	_, err := fmt.Fprintf(out, "next to expire: %s, %s (%s renews it)\n", next.Signed, in(next.Expires, now), renew[string(next.Role)])
	return err
}

func limits(m *manifest.Manifest) (s string) {
	if m.Disabled {
		s += ", disabled"
	}
	if m.Rollout != nil {
		s += fmt.Sprintf(", for %d %% of the machines", m.Rollout.Percent)
	}
	if m.MinVersion != "" {
		s += ", from " + m.MinVersion + " on"
	}
	return s
}

func in(t, now time.Time) string {
	d := t.Sub(now)
	days := int(d.Abs().Hours() / 24)
	s := fmt.Sprintf("%d days", days)
	switch days {
	case 0:
		s = "less than a day"
	case 1:
		s = "1 day"
	}
	if d < 0 {
		return s + " ago"
	}
	return "in " + s
}
