// machinemon-release is the publisher's command: it writes the directory that a
// target's source.url points at, and keeps the keys that sign it. See the package
// release for what it does there.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "devel"

func main() {
	// An error before a verb began its work is one of usage.
	began := false
	root := &cobra.Command{
		Use:           "machinemon-release",
		Short:         "Publish releases for machinemon-update",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(publishCommand(&began), setCommand(&began), keygenCommand(&began), initCommand(&began),
		refreshCommand(&began), rotateCommand(&began), statusCommand(&began), verifyCommand(&began), versionCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "machinemon-release: %v\n", err)
		if !began {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// oneDirectory is the argument of most verbs.
func oneDirectory(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one directory (see machinemon-release %s --help)", c.Name(), c.Name())
	}
	return nil
}

// releaseTime is now, or what a reproducible build says it is:
// https://reproducible-builds.org/specs/source-date-epoch/
func releaseTime() (time.Time, error) {
	s, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil || seconds < 0 || seconds > 253402300799 { // the end of 9999, RFC 3339's
		return time.Time{}, fmt.Errorf("cannot use SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", s)
	}
	return time.Unix(seconds, 0), nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version)
			return err
		},
	}
}
