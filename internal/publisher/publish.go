package publisher

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/release"
)

const publishHelp = `Example: put version v0.1.11 for two platforms into the directory that
https://monitor.example.com/download/ serves, from anywhere:

  machinemon-release publish /srv/download --version v0.1.11 \
      machinemon-client-linux-amd64.tar.gz machinemon-client-linux-arm64.tar.gz

Copies each archive into DIR and then replaces DIR/client-manifest.json in one
step. Any web server that serves DIR as static files will do.

An archive is tar (plain, gz, zst, xz, bz2) or zip, or it is the program itself,
plain or compressed. Its name ends in its platform: NAME-linux-amd64.tar.gz,
NAME_linux_armv7.zip, NAME-1.2.linux-arm64.
In DIR it is called PRODUCT-VERSION-PLATFORM-DIGEST.EXT, so no file that
a manifest has named is ever overwritten; old ones are yours to delete.

A new version starts with the platforms given. At the version that DIR already
has, further platforms are added; if the bytes of one change, the sequence grows
and machines see another release. The same bytes again change nothing, and keep
rollout and disabled unless --rollout or --disabled says otherwise.

In a signed directory, which "init" makes, the release is signed with the targets
and the online key. publish refuses while KEYS/root holds a key that it can read.

Deltas are made for files of 64 KiB and more, from the releases before that DIR
still has: a machine that runs one of those downloads much less. --deltas says from
how many.`

func publishCommand() *cobra.Command {
	var (
		q release.Request
		l limitFlags
	)
	c := &cobra.Command{
		Use:   "publish DIR --version V ARCHIVE…",
		Short: "Put a release into a directory",
		Long:  publishHelp,
		Args:  cli.Args("a directory and at least one archive", "", cli.AtLeast(2)),
	}
	c.Flags().StringVar(&q.Version, "version", "", "`version` of the archives (required)")
	c.Flags().StringVar(&q.Product, "product", "", "`name` of the product (default: the one DIR has, else from the archive's name)")
	c.Flags().StringVar(&q.MinVersion, "min-version", "", "`version` to write into the manifest as min_version")
	c.Flags().IntVar(&q.Deltas, "deltas", 3, "make deltas from the last `N` releases")
	l.add(c)
	keyFlags(c, &q.Keys)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if !c.Flags().Changed("version") {
			return cli.Usagef("publish needs the version of the archives (hint: --version V; machinemon-release publish --help)")
		}
		for flag, value := range map[string]string{"version": q.Version, "product": q.Product, "min-version": q.MinVersion} {
			if c.Flags().Changed(flag) && !manifest.ValidName(value) {
				return badName(flag)
			}
		}
		if q.Deltas < 0 {
			return cli.Usagef("--deltas must be 0 or more")
		}
		if q.Rollout, q.Disabled, err = l.given(c); err != nil {
			return err
		}
		q.Note = l.note
		if q.Now, err = releaseTime(); err != nil {
			return err
		}
		q.Dir, q.Archives, q.Progress = args[0], args[1:], deltaProgress()
		m, changed, err := release.Publish(q)
		if err != nil {
			return err
		}
		return say(c, m, changed, l.notes)
	}
	return c
}

func badName(flag string) error {
	return cli.Usagef("--%s must be 1 to 64 of A-Z a-z 0-9 . + _ ~ - and start with a letter or digit", flag)
}

// say prints what was published, after the notes.
func say(c *cobra.Command, m *manifest.Manifest, changed bool, notes []string) error {
	for _, line := range notes {
		fmt.Fprintln(c.OutOrStdout(), line)
	}
	did := "published"
	if !changed {
		did = "unchanged:"
	}
	platforms := strings.Join(slices.Sorted(maps.Keys(m.Platforms)), ", ")
	but := strings.TrimPrefix(limits(m), ", ")
	if but != "" {
		but = " (" + but + ")"
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s %s, sequence %d, for %s%s\n", did, m.Product, m.Version, m.Sequence, platforms, but)
	return err
}

// deltaProgress returns nil if progress cannot be drawn.
func deltaProgress() func(done, total int) {
	terminal := cli.Terminal()
	if terminal == nil {
		return nil
	}
	var bar *progressbar.ProgressBar
	return func(done, total int) {
		if bar == nil {
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(terminal),
				progressbar.OptionSetDescription("deltas"), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
		}
		bar.Set(done) // an error of drawing must not stop the publication
	}
}
