// machinemon-release is the publisher's command: it writes the directory that a
// target's source.url points at. See the package release for what it does there.
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/release"
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
	root.AddCommand(publishCommand(&began), versionCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "machinemon-release: %v\n", err)
		if !began {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

const publishHelp = `Example: put version v0.1.11 for two platforms into the directory that
https://monitor.example.com/download/ serves, from anywhere:

  machinemon-release publish /srv/download --version v0.1.11 \
      machinemon-client-linux-amd64.tar.gz machinemon-client-linux-arm64.tar.gz

Copies each archive into DIR and then replaces DIR/client-manifest.json in one
step. Any web server that serves DIR as static files will do.

An archive is tar.gz or tar.zst and its name ends in its platform:
NAME-linux-amd64.tar.gz, NAME_linux_armv7.tar.zst, NAME-1.2.linux-arm64.tgz.
In DIR it is always called PRODUCT-VERSION-PLATFORM-DIGEST.EXT, so no file that
a manifest has named is ever overwritten; old ones are yours to delete.

A new version starts with the platforms given. At the version that DIR already
has, further platforms are added; if the bytes of one change, the sequence grows
and machines see another release. The same bytes again change nothing.`

func publishCommand(began *bool) *cobra.Command {
	var q release.Request
	c := &cobra.Command{
		Use:                   "publish DIR --version V ARCHIVE…",
		Short:                 "Put a release into a directory",
		Long:                  publishHelp,
		DisableFlagsInUseLine: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("publish takes a directory and at least one archive (see machinemon-release publish --help)")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			for flag, value := range map[string]string{"version": q.Version, "product": q.Product, "min-version": q.MinVersion} {
				if c.Flags().Changed(flag) && !manifest.ValidName(value) {
					return fmt.Errorf("--%s must be 1 to 64 of A-Z a-z 0-9 . + _ ~ - and start with a letter or digit", flag)
				}
			}
			*began = true
			var err error
			if q.Now, err = releaseTime(); err != nil {
				return err
			}
			q.Dir, q.Archives = args[0], args[1:]
			m, changed, err := release.Publish(q)
			if err != nil {
				return err
			}
			did := "published"
			if !changed {
				did = "unchanged:"
			}
			platforms := strings.Join(slices.Sorted(maps.Keys(m.Platforms)), ", ")
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s %s %s, sequence %d, for %s\n", did, m.Product, m.Version, m.Sequence, platforms)
			return err
		},
	}
	c.Flags().StringVar(&q.Version, "version", "", "`version` of the archives (required)")
	c.Flags().StringVar(&q.Product, "product", "", "`name` of the product (default: the one DIR has, else from the archive's name)")
	c.Flags().StringVar(&q.MinVersion, "min-version", "", "`version` to write into the manifest as min_version")
	if err := c.MarkFlagRequired("version"); err != nil {
		panic(err) // the flag is defined two lines up
	}
	return c
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
