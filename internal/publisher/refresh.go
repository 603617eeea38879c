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

Signs snapshot and timestamp again, for seven days, with the online key. That
tells machines that nothing newer is kept from them. It does not prolong what
the other keys signed, and refuses once that has expired. It refuses as well
while KEYS/root holds a key that it can read.`

func refreshCommand() *cobra.Command {
	var keys release.Keys
	c := onDirectory("refresh DIR", "Sign snapshot and timestamp again", refreshHelp, func(c *cobra.Command, dir string, now time.Time) error {
		s, err := release.Refresh(dir, keys, now)
		if err != nil {
			return err
		}
		for _, r := range s.Roles {
			// The next run renews snapshot and timestamp; warn about the others only.
			if (r.Role == "root" || r.Role == "targets") && r.Expires.Before(now.AddDate(0, 0, 14)) {
				fmt.Fprintf(os.Stderr, "machinemon-release: %s expires %s (hint: %s)\n", r.Signed, in(r.Expires, now), renew[string(r.Role)])
			}
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "refreshed: machines accept %s until %s\n", dir, s.NextToExpire().Expires.UTC().Format(time.RFC3339))
		return err
	})
	keyFlags(c, &keys)
	return c
}
