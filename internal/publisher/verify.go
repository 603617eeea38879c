package publisher

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/release"
)

const verifyHelp = `Example: does a machine that has the first root accept what is published?

  machinemon-release verify /srv/download --root /etc/machinemon-update/trust/agent.root.json

Does what a machine does that has seen nothing yet: from the root over all
signatures to the manifest, and to the digests of the archives and deltas in the
directory. Without --root it begins with DIR/1.root.json.`

func verifyCommand() *cobra.Command {
	var root string
	c := onDirectory("verify DIR [--root FILE]", "Check a signed directory as a machine does", verifyHelp, func(c *cobra.Command, dir string, now time.Time) error {
		v, err := release.Verify(dir, root, now)
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
	})
	c.Flags().StringVar(&root, "root", "", "the root `file` that the machine has")
	return c
}
