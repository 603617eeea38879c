package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// newest is the newest release of a source, for init.
type newest struct {
	Version string       `json:"version"`
	Product string       `json:"product"`
	Names   []string     `json:"names"` // of its files, on GitHub
	File    string       `json:"file"`  // the archive
	Size    int64        `json:"size"`
	Result  state.Result `json:"result"` // of a failure
	Error   string       `json:"error"`

	entries []string // the names in the archive; nil if none was chosen
}

const (
	fetchTime = 30 * time.Minute // for a large archive over a slow line
	listTime  = 10 * time.Minute
	// maxListing is enough for the greatest number of entries that an archive may have.
	maxListing = 4 << 20
)

// surveyor reads a release in sandboxes: the fetcher has a network, the verifier, which
// parses the archive, has none. This process reads only their JSON.
type surveyor struct {
	*app
	machine machine
	name    string
	dir     string // only root can enter it
	token   string // the file that has the source's token; "" for none
}

// survey asks the source for its newest release, and lists its archive. program is the name
// of the program that it should contain.
func (a *app) survey(ctx context.Context, m machine, name, program string, from initFrom) (r newest, err error) {
	dir, err := os.MkdirTemp(cmp.Or(os.Getenv("TMPDIR"), "/var/tmp"), "machinemon-update-") // /tmp may be in memory
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	s := surveyor{a, m, name, dir, from.token}
	source := from.source()
	r, err = s.ask(ctx, source)
	if err == nil && from.github != "" {
		file := chooseArchive(r.Names, program, r.Version)
		if file == "" {
			return r, nil
		}
		names := r.Names
		source = append(source, file)
		r, err = s.ask(ctx, source)
		r.Names = names
	}
	if err != nil {
		return r, err
	}
	r.entries, err = s.list(ctx, source, r)
	return r, err
}

// ask makes the fetcher say what the source has.
func (s surveyor) ask(ctx context.Context, source []string) (r newest, err error) {
	end, err := s.try(ctx, systemd.Sandbox{Argv: append([]string{s.fetcher, "survey"}, source...), User: "machinemon-fetch", Token: s.token, Network: true, Time: 2 * time.Minute, MaxOutput: maxListing})
	if err != nil {
		return r, err
	}
	if json.Unmarshal([]byte(end.Output), &r) != nil {
		return r, fmt.Errorf("cannot read what %s answers (%s)", s.fetcher, end.Detail)
	}
	if r.Error != "" {
		return r, state.Fail(r.Result, "%s", state.Printable(r.Error))
	}
	return r, nil
}

// list makes the fetcher download the archive, and the verifier list it.
func (s surveyor) list(ctx context.Context, source []string, r newest) ([]string, error) {
	free, err := state.Free(s.dir)
	if err != nil {
		return nil, err
	}
	if r.Size > free {
		return nil, fmt.Errorf("cannot read %s: it needs %d bytes in %s, %d are free (hint: TMPDIR can name a directory of another disk)", state.Printable(r.File), r.Size, filepath.Dir(s.dir), free)
	}
	archive := filepath.Join(s.dir, "archive")
	end, err := s.try(ctx, systemd.Sandbox{Argv: append([]string{s.fetcher, "archive"}, source...), User: "machinemon-fetch", Token: s.token, Network: true, Keep: true,
		Output: archive, Time: fetchTime, MaxOutput: r.Size + 64<<10})
	if err != nil {
		return nil, err
	}
	if end.Detail != "" {
		lines := strings.Split(strings.TrimSpace(end.Output), "\n")
		return nil, state.NotDownloaded("cannot read %s: %s (%s)", state.Printable(r.File), state.Line(lines[len(lines)-1]), end.Detail)
	}
	end, err = s.try(ctx, systemd.Sandbox{Argv: []string{s.verifier, "--list"}, User: "machinemon-verify", Input: archive, Time: listTime, MaxOutput: maxListing})
	if err != nil {
		return nil, err
	}
	var listing struct {
		Contents map[string]json.RawMessage `json:"contents"`
		Error    string                     `json:"error"`
	}
	if err := json.Unmarshal([]byte(end.Output), &listing); err != nil {
		return nil, fmt.Errorf("cannot list %s: %s", state.Printable(r.File), cmp.Or(end.Detail, "its list is damaged"))
	}
	if listing.Error != "" {
		return nil, state.Refused("cannot list %s: %s", state.Printable(r.File), state.Line(listing.Error))
	}
	return slices.Sorted(maps.Keys(listing.Contents)), nil
}

// try runs a program in a transient unit of this target. If the operator leaves, the unit is
// stopped.
func (s surveyor) try(ctx context.Context, sandbox systemd.Sandbox) (systemd.SandboxResult, error) {
	sandbox.Unit, sandbox.Description = "machinemon-init@"+s.name+".service", "Read the newest release for a target file"
	if sandbox.Output == "" {
		sandbox.Output = filepath.Join(s.dir, "answer")
	}
	end, err := s.machine.Try(ctx, sandbox)
	if ctx.Err() != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return end, errors.Join(errors.New("interrupted"), s.machine.Stop(stop, sandbox.Unit))
	}
	if err == nil && (end.Exec || end.Late) {
		err = fmt.Errorf("cannot run %s: %s", sandbox.Argv[0], end.Detail)
	}
	return end, err
}
