package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/release"
)

const refreshHelp = `Example: what machinemon-release-refresh@.timer runs every day

  machinemon-release refresh /srv/download

Signs snapshot and timestamp anew, for seven days, with the online key. That
tells machines that nothing newer is kept from them. It does not prolong what
the other keys signed, and refuses once that has expired.`

func refreshCommand(began *bool) *cobra.Command {
	c := &cobra.Command{
		Use:                   "refresh DIR",
		Short:                 "Sign snapshot and timestamp anew",
		Long:                  refreshHelp,
		DisableFlagsInUseLine: true,
		Args:                  oneDirectory,
	}
	keys := keyFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		*began = true
		now, err := releaseTime()
		if err != nil {
			return err
		}
		s, err := release.Refresh(args[0], keys(), now)
		if err != nil {
			return err
		}
		for _, r := range s.Roles {
			// A week after the next run is too late for these.
			if (r.Role == "root" || r.Role == "targets") && r.Expires.Before(now.AddDate(0, 0, 14)) {
				fmt.Fprintf(os.Stderr, "machinemon-release: %s expires %s (hint: %s)\n", r.Signed, in(r.Expires, now), renew[string(r.Role)])
			}
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "refreshed: machines accept %s until %s\n", args[0], s.Next().Expires.UTC().Format(time.RFC3339))
		return err
	}
	return c
}

// renew says what prolongs a role.
var renew = map[string]string{"root": "rotate", "targets": "set", "snapshot": "refresh", "timestamp": "refresh"}

func statusCommand(began *bool) *cobra.Command {
	return &cobra.Command{
		Use:                   "status DIR",
		Short:                 "Show a repository's roles and keys, and what expires next",
		DisableFlagsInUseLine: true,
		Args:                  oneDirectory,
		RunE: func(c *cobra.Command, args []string) error {
			*began = true
			now, err := releaseTime()
			if err != nil {
				return err
			}
			s, err := release.ReadStatus(args[0])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprint(w, "ROLE\tVERSION\tEXPIRES\tNEEDS\tKEYS\n")
			for _, r := range s.Roles {
				version, expires := "-", "-"
				if r.Version > 0 {
					version, expires = fmt.Sprint(r.Version), r.Expires.UTC().Format(time.DateOnly)
				}
				ids := make([]string, len(r.Keys))
				for i, id := range r.Keys {
					ids[i] = id[:min(12, len(id))]
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Role, version, expires, r.Of(), strings.Join(ids, " "))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return summary(c, s, now)
		},
	}
}

// summary ends with an error if something has expired: no machine updates then.
func summary(c *cobra.Command, s *release.Status, now time.Time) error {
	out := c.OutOrStdout()
	switch m := s.Manifest; {
	case m == nil:
		fmt.Fprintln(out, "nothing is published yet")
	default:
		fmt.Fprintf(out, "publishes %s %s, sequence %d%s\n", m.Product, m.Version, m.Sequence, limits(m))
	}
	if s.Draft != "" {
		fmt.Fprintf(out, "%s awaits signatures\n", s.Draft)
	}
	next := s.Next()
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
	switch {
	case d < 0:
		return fmt.Sprintf("%d days ago", days)
	case days == 0:
		return "within a day"
	}
	return fmt.Sprintf("in %d days", days)
}

const verifyHelp = `Example: does a machine that has the first root accept what is published?

  machinemon-release verify /srv/download --root /etc/machinemon-update/trust/agent.root.json

Does what a machine does that has seen nothing yet: from the root over all
signatures to the manifest, and to the digests of the archives and deltas in the
directory. Without --root it begins with DIR/1.root.json.`

func verifyCommand(began *bool) *cobra.Command {
	var root string
	c := &cobra.Command{
		Use:                   "verify DIR [--root FILE]",
		Short:                 "Check a repository as a machine does",
		Long:                  verifyHelp,
		DisableFlagsInUseLine: true,
		Args:                  oneDirectory,
	}
	c.Flags().StringVar(&root, "root", "", "the root `file` that the machine has")
	c.RunE = func(c *cobra.Command, args []string) error {
		*began = true
		now, err := releaseTime()
		if err != nil {
			return err
		}
		v, err := release.Verify(args[0], root, now)
		if err != nil {
			return err
		}
		var signed []string
		for _, s := range v.Release.Signed {
			signed = append(signed, s.String())
		}
		m := v.Release.Manifest
		_, err = fmt.Fprintf(c.OutOrStdout(), "good: %s %s, sequence %d, by %s; %d files match\n", m.Product, m.Version, m.Sequence, strings.Join(signed, ", "), v.Files)
		return err
	}
	return c
}
