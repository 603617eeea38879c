// Package publisher is the publisher's command: its verbs write the directory that a
// target's source.url points to, and manage the keys that sign it. Package release does
// the work.
package publisher

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
)

// Main runs the command and returns its exit status: 0 done, 1 failed, 2 usage.
func Main(args []string, version string) int {
	root := &cobra.Command{Use: "machinemon-release", Short: "Publish releases for machinemon-update", Version: version,
		Args: cli.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	root.SetArgs(args)
	root.AddCommand(publishCommand(), setCommand(), rolloutCommand(), keygenCommand(), initCommand(),
		refreshCommand(), rotateCommand(), statusCommand(), verifyCommand(), versionCommand(version))
	return cli.Run(root, func(error) int { return 1 })
}

// onDirectory returns a verb that works on one directory, at the time of the release. run
// may use what the caller adds as flags.
func onDirectory(use, short, long string, run func(c *cobra.Command, dir string, now time.Time) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Long: long, Args: cli.Args("one directory", "", cli.Exactly(1)),
		RunE: func(c *cobra.Command, args []string) error {
			now, err := releaseTime()
			if err != nil {
				return err
			}
			return run(c, args[0], now)
		}}
}

// releaseTime returns the current time, or the one that a reproducible build sets:
// https://reproducible-builds.org/specs/source-date-epoch/
func releaseTime() (time.Time, error) {
	s, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil || seconds < 0 || seconds > 253402300799 { // the end of 9999, the last year of RFC 3339
		return time.Time{}, fmt.Errorf("cannot use SOURCE_DATE_EPOCH: %q is not a number of seconds since 1970", s)
	}
	return time.Unix(seconds, 0), nil
}

func versionCommand(version string) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version)
			return err
		}}
}
