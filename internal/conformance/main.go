// Conformance is the client that TUF's conformance suite runs:
// https://github.com/theupdateframework/tuf-conformance. It downloads as the fetcher
// does and verifies with internal/trust. The suite's CLIENT-CLI.md describes the
// command line. "make conformance-client" builds it; no package contains it.
//
// The metadata directory holds the trusted metadata: root.json, timestamp.json,
// snapshot.json and targets.json, with the bytes that were downloaded. The root there is
// the pin of the next run. A failed run ends with status 1 and stores what was verified
// before the failure. The time is that of date(1): the suite's faketime replaces libc's
// clock, which a static Go program does not use. For the same reason this client, unlike
// machines, does not store the last time seen.
//
// A machine updates from repositories of one profile, and this client does nothing
// that machines do not. So these of the suite's cases must fail:
//
//   - Delegations, and with them target paths, path patterns and quoting of roles'
//     names: only the four top-level roles are supported.
//   - Downloads of other files than client-manifest.json, which must be a manifest,
//     named with its sha256. The manifest vouches for archives, not TUF.
//   - Repositories without consistent_snapshot: every name but timestamp.json has
//     its version or digest.
//   - Artifacts that were downloaded before: this client downloads them again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/fetch"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

const usage = `usage: conformance-client --metadata-dir DIR init ROOT
       conformance-client --metadata-dir DIR --metadata-url URL refresh
       conformance-client --metadata-dir DIR --metadata-url URL --target-name NAME
           --target-base-url URL --target-dir DIR download`

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var (
		c                         client
		url, name, base, download string
	)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	flags.StringVar(&c.dir, "metadata-dir", "", "")
	flags.StringVar(&url, "metadata-url", "", "")
	flags.StringVar(&name, "target-name", "", "")
	flags.StringVar(&base, "target-base-url", "", "")
	flags.StringVar(&download, "target-dir", "", "")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	switch args := flags.Args(); {
	case c.dir == "":
	case len(args) == 2 && args[0] == "init":
		return c.init(args[1])
	case len(args) == 1 && args[0] == "refresh" && url != "":
		return c.refresh(ctx, url)
	case len(args) == 1 && args[0] == "download" && url != "" && name != "" && base != "" && download != "":
		if err := c.refresh(ctx, url); err != nil {
			return err
		}
		return c.download(ctx, name, base, download)
	}
	return errors.New(usage)
}

// client is a TUF client whose trusted metadata is in dir.
type client struct {
	dir string
	trust.Client
}

func (c *client) init(root string) error {
	b, err := read(root)
	if err != nil {
		return err
	}
	if _, err := trust.CheckRoot(b); err != nil {
		return fmt.Errorf("cannot trust %s: %w", root, err)
	}
	return c.write(trust.RoleRoot, b)
}

// refresh brings the metadata up to date, and stores what was verified.
func (c *client) refresh(ctx context.Context, url string) (err error) {
	if c.Pin, err = read(c.file(trust.RoleRoot)); err != nil {
		return err
	}
	if c.Clock, err = date(); err != nil {
		return err
	}
	known := []*[]byte{&c.State.Timestamp, &c.State.Snapshot, &c.State.Targets}
	c.State.Pin = manifest.Digest(c.Pin)
	for i, role := range []trust.Role{trust.RoleTimestamp, trust.RoleSnapshot, trust.RoleTargets} {
		if *known[i], err = read(c.file(role)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	get, err := fetch.FilesAt(ctx, url)
	if err != nil {
		return err
	}
	c.State, err = c.Refresh(get)
	if errors.As(err, new(*trust.Error)) { // other errors name the address themselves
		err = fmt.Errorf("cannot trust %s: %w", url, err)
	}
	return errors.Join(err, c.store())
}

func (c *client) download(ctx context.Context, name, url, dir string) error {
	if name != manifest.FileName {
		return fmt.Errorf("cannot download %s: %s is the only target of a repository", name, manifest.FileName)
	}
	file, most, err := trust.Next(trust.RoleTargets, c.State.Targets)
	if err != nil {
		return fmt.Errorf("cannot trust %s: %w", url, err)
	}
	get, err := fetch.FilesAt(ctx, url)
	if err != nil {
		return err
	}
	raw, err := get(file, most)
	if err != nil {
		return err
	}
	s := c.State
	if _, _, err := c.Check(trust.Metadata{Timestamp: s.Timestamp, Snapshot: s.Snapshot, Targets: s.Targets, Manifest: raw}); err != nil {
		return fmt.Errorf("cannot trust %s: %w", url, err)
	}
	return durable.WriteFile(filepath.Join(dir, name), raw, 0o644)
}

func (c *client) store() error {
	if n := len(c.State.Roots); n > 0 {
		if err := c.write(trust.RoleRoot, c.State.Roots[n-1]); err != nil {
			return err
		}
	}
	return errors.Join(
		c.write(trust.RoleTimestamp, c.State.Timestamp),
		c.write(trust.RoleSnapshot, c.State.Snapshot),
		c.write(trust.RoleTargets, c.State.Targets))
}

func (c *client) file(r trust.Role) string { return filepath.Join(c.dir, string(r)+".json") }

func read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("cannot read %s: %w", path, e.Err)
	}
	return b, err
}

func (c *client) write(r trust.Role, b []byte) error {
	if b == nil {
		return nil
	}
	return durable.WriteFile(c.file(r), b, 0o644)
}

// date returns the time by date(1).
func date() (time.Time, error) {
	out, err := exec.Command("date", "+%s").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read the clock: date: %w", err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read the clock: date said %.40q", out)
	}
	return time.Unix(seconds, 0), nil
}
