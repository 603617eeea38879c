package publisher

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/release"
)

const refreshHelp = `Example: what machinemon-release-refresh@.timer runs every day

  machinemon-release refresh /srv/download

Signs snapshot and timestamp anew, for seven days, with the online key. That
tells machines that nothing newer is kept from them. It does not prolong what
the other keys signed, and refuses once that has expired. It refuses as well
while KEYS/root holds a key that it can read.`

func refreshCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "refresh DIR",
		Short: "Sign snapshot and timestamp again",
		Long:  refreshHelp,
		Args:  oneDirectory,
	}
	keys := keyFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		now, err := releaseTime()
		if err != nil {
			return err
		}
		s, err := release.Refresh(args[0], keys(), now)
		if err != nil {
			return err
		}
		for _, r := range s.Roles {
			// The next run renews snapshot and timestamp; warn about the others only.
			if (r.Role == "root" || r.Role == "targets") && r.Expires.Before(now.AddDate(0, 0, 14)) {
				fmt.Fprintf(os.Stderr, "machinemon-release: %s expires %s (hint: %s)\n", r.Signed, in(r.Expires, now), renew[string(r.Role)])
			}
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "refreshed: machines accept %s until %s\n", args[0], s.NextToExpire().Expires.UTC().Format(time.RFC3339))
		return err
	}
	return c
}
