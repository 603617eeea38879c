package publisher

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/release"
)

const initHelp = `Example: with the keys that "keygen --help" makes

  machinemon-release init /srv/download \
      --key /media/usb/one/root/2f0c81d6a5b4.pem \
      --key /media/usb2/two/root/7be09a4411c3.pem

makes /srv/download/1.root.json. Machines need a copy of it once, as what they
start from. Take the media away: "publish", "set" and "refresh" refuse while
KEYS/root holds a key that they can read, and cannot see other media.

Besides root's the public keys in KEYS/targets and KEYS/online are taken; --add
names others. Of two root keys one has to sign, of three or more two. Where some
of the signatures are missing, each of the other holders runs "init DIR --draft
--key FILE", and nothing is published before the last one.`

func initCommand() *cobra.Command {
	const use = "init DIR [--add HOLDER=FILE.pub]… [--root-threshold N] | --draft"
	c, _ := rootCommand(use, "Make a directory a signed one", initHelp, release.Init)
	return c
}

const rotateHelp = `Example: the laptop with the targets key was stolen. On the machine where the
new one is, make a key; where a root key is, put it in the place of the old one:

  machinemon-release keygen targets
  machinemon-release status /srv/download      # shows the IDs
  machinemon-release rotate /srv/download --key /media/usb/one/root/2f0c81d6a5b4.pem \
      --add targets=91ab44d07c1e.pub --remove 3c5f6e70

Makes the next root, N.root.json, which machines find by themselves; it is good
for another year, also if nothing is changed. Enough keys of the root before and
of the new one have to sign it. Where signatures are missing, DIR/.next-root.json
is a draft, which each of the other holders signs:

  machinemon-release rotate /srv/download --draft --key /media/usb2/two/root/7be09a4411c3.pem

That shows what the draft changes, and asks at a terminal. Sign nothing that you
did not expect: every user that can write to DIR can place a draft there, or a
root. So keep 1.root.json with your key, and have the roots checked by --root FILE.
Only DIR's root files are needed, so a copy of those will do.`

func rotateCommand() *cobra.Command {
	const use = "rotate DIR [--add HOLDER=FILE.pub]… [--remove ID]… [--root-threshold N] [--root FILE] | --draft"
	c, q := rootCommand(use, "Replace keys, or renew the root for another year", rotateHelp, release.Rotate)
	c.Flags().StringArrayVar(&q.Remove, "remove", nil, "a key's `ID`, at least the first 8 digits; may be given more than once")
	c.Flags().StringVar(&q.Pin, "root", "", "a root `file` that you kept: DIR's roots must follow from it")
	return c
}

// rootCommand returns a verb that does what its flags request. They set the request.
func rootCommand(use, short, long string, do func(release.RootRequest) (*release.RootResult, error)) (*cobra.Command, *release.RootRequest) {
	var add []string
	q := &release.RootRequest{}
	c := onDirectory(use, short, long, func(c *cobra.Command, dir string, now time.Time) (err error) {
		if q.Add, err = addedKeys(q, add); err != nil {
			return err
		}
		out := c.OutOrStdout()
		q.Dir, q.Now, q.Review = dir, now, func(d release.Draft) error { return review(out, d) }
		result, err := do(*q)
		if err != nil {
			return err
		}
		if result.Missing != "" {
			_, err = fmt.Fprintf(out, "signed root v%d; it still has to be signed by %s (each with %s --draft)\n", result.Version, result.Missing, c.Name())
			return err
		}
		if _, err = fmt.Fprintf(out, "published root v%d\n", result.Version); err == nil && result.Todo != "" {
			_, err = fmt.Fprintln(out, result.Todo)
		}
		return err
	})
	c.Flags().StringArrayVar(&add, "add", nil, "a public key, as `HOLDER=FILE.pub` with one of root, targets and online; may be given more than once")
	c.Flags().IntVar(&q.Threshold, "root-threshold", 0, "how `many` root keys have to sign")
	c.Flags().BoolVar(&q.Draft, "draft", false, "show and sign the root that awaits signatures")
	keyFlags(c, &q.Keys)
	return c, q
}

// addedKeys returns what --add names, by holder, and checks the flags beside it.
func addedKeys(q *release.RootRequest, add []string) (map[string][]string, error) {
	if q.Threshold < 0 {
		return nil, cli.Usagef("--root-threshold must be 1 or more")
	}
	if q.Draft && (len(add) > 0 || len(q.Remove) > 0 || q.Threshold > 0) {
		return nil, cli.Usagef("--draft signs what is there: it goes with --key, --keys, --root and --passphrase-fd only")
	}
	added := map[string][]string{}
	for _, a := range add {
		holder, path, ok := strings.Cut(a, "=")
		if !ok || !slices.Contains(release.Holders, holder) {
			return nil, cli.Usagef("--add must be root=FILE.pub, targets=FILE.pub or online=FILE.pub, not %q", a)
		}
		added[holder] = append(added[holder], path)
	}
	return added, nil
}

// review shows a draft before it is signed, and asks for consent on a terminal.
func review(out io.Writer, d release.Draft) error {
	if _, err := fmt.Fprintf(out, "%s, to be signed:\n  %s\n", d.File, strings.Join(d.Changes, "\n  ")); err != nil {
		return err
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil
	}
	fmt.Fprint(os.Stderr, "Sign it? yes or no: ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" || err != nil {
		return errors.New("the draft was not signed")
	}
	return nil
}
