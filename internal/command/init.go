package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/nearest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// initFrom is where the releases of the target that init describes come from; at most one
// of the first three is not "". token is the file that has the token of a private repository.
type initFrom struct{ github, manifest, file, token string }

// addInit adds the verb by add.
func (a *app) addInit(add func(use, short, more string, args cobra.PositionalArgs, complete cobra.CompletionFunc, run func([]string) error) *cobra.Command) {
	var from initFrom
	var write bool
	oneSource := cli.Args("a unit, and at most one source", "", func(args []string) bool {
		given := len(args) - 1
		for _, s := range []string{from.github, from.manifest} {
			if s != "" {
				given++
			}
		}
		return len(args) > 0 && given <= 1
	})
	flags := add("init UNIT [--github OWNER/NAME|--manifest URL|FILE]", "Print a target file for a service that runs", `
It names the unit, its program, the command that prints the version, and a TCP
port of the unit as probe. The newest release is downloaded and listed, so that
the names of its archive and of the program in it are right. FILE is a manifest,
an archive or a directory with releases on this machine. --write puts it into
  /etc/machinemon-update/targets.d
unless there is such a target.`, oneSource, a.completeUnit, func(args []string) error {
		if len(args) > 1 {
			var err error
			if from.file, err = filepath.Abs(args[1]); err != nil {
				return err
			}
		}
		if from.token != "" {
			if from.github == "" {
				return cli.Usagef("--token-file is that of a repository (hint: name it by --github)")
			}
			var err error
			if from.token, err = filepath.Abs(from.token); err != nil {
				return err
			}
			if _, err := os.Stat(from.token); err != nil {
				return cli.Usagef("cannot read %s: %w (hint: write the token to this file, and chmod 0600 it)", from.token, durable.Cause(err))
			}
		}
		return a.initTarget(args[0], from, write)
	}).Flags()
	flags.StringVar(&from.github, "github", "", "`OWNER/NAME` of the program's repository")
	flags.StringVar(&from.token, "token-file", "", "`FILE` with the token of a private repository")
	flags.StringVar(&from.manifest, "manifest", "", "`URL` of the publisher's manifest")
	flags.BoolVar(&write, "write", false, "write the file, and let systemd read it")
}

// initiated is the JSON of init.
type initiated struct {
	Target  string `json:"target"`
	File    string `json:"file"`
	Text    string `json:"text"`
	Written bool   `json:"written"`
}

// initTarget makes a target file for a unit from what systemd knows of it and from what its
// program does now. It prints the file, or writes it where no target has that name.
func (a *app) initTarget(unit string, from initFrom, write bool) error {
	if !strings.HasSuffix(unit, ".service") {
		unit += ".service"
	}
	name := strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(unit, ".service"), "@", "-"))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := a.see(ctx)
	if m == nil {
		return errors.New("cannot describe " + unit + ": systemd does not answer")
	}
	defer m.Close()
	u, err := m.Unit(ctx, unit)
	if err != nil {
		return err
	}
	if u.Load != "loaded" || len(u.Command) == 0 {
		what := "it has no program (" + u.Load + ")"
		if u.Load == "not-found" {
			what = "there is no such service"
		}
		return cli.Usagef("cannot describe %s: %s (hint: %s)", unit, what,
			cmp.Or(nearest.Hint(unit, running(ctx, m)), "systemctl list-units --type=service lists the units"))
	}
	in := initiated{Target: name, File: filepath.Join(a.targets.Admin, name+".toml")}
	if write {
		if err := a.unclaimed(name, u.Name); err != nil {
			return err
		}
	}
	d, err := describe(ctx, m, u, name, from)
	if err != nil {
		return err
	}
	pkg, err := a.targets.Package(d.program)
	if err != nil {
		return err
	}
	if pkg != "" {
		a.warnAbout(name, fmt.Sprintf("%s belongs to the Debian package %s, so no update will replace it (hint: apt updates it; or let %s run another copy, in /usr/local/bin)", d.program, pkg, u.Name))
	}
	// Before the source is asked, so that no request goes to an address that is refused.
	if err := a.acceptable(name, u.Name, d.text(newest{})); err != nil {
		return err
	}
	var release newest
	if from != (initFrom{}) {
		if release, err = a.survey(ctx, m, name, filepath.Base(d.program), from); err != nil {
			hint := ""
			if !strings.Contains(err.Error(), "(hint: ") { // behind a proxy, say, which the target file can name
				hint = fmt.Sprintf(" (hint: sudo machinemon-update init %s describes the unit without a source)", u.Name)
			}
			return fmt.Errorf("cannot describe %s: %w%s", u.Name, err, hint)
		}
	}
	text := d.text(release)
	in.Text = text
	if err := a.acceptable(name, u.Name, text); err != nil {
		return err
	}
	if !write {
		return a.print(in, text)
	}
	if err := durable.WriteFile(filepath.Join(a.targets.Root, in.File), []byte(text), 0o644); err != nil {
		return err
	}
	in.Written = true
	return errors.Join(a.print(in, text+fmt.Sprintf("\n%s: written to %s (hint: sudo machinemon-update doctor %[1]s, then sudo machinemon-update apply --dry-run %[1]s)\n", name, in.File)), a.reload())
}

// unclaimed returns an error if a target has this name, or this unit.
func (a *app) unclaimed(name, unit string) error {
	all, err := a.targets.Names()
	if err != nil {
		return err
	}
	for _, other := range all {
		file := filepath.Join(a.targets.Admin, other+".toml")
		if other == name {
			return cli.Usagef("cannot write %s: there is a target %s already (hint: without --write the file is only printed)", file, name)
		}
		if t, err := a.targets.Load(other); err == nil && slices.Contains(t.Units(), unit) { // check-config shows the error
			return cli.Usagef("cannot describe %s: the target %s has this unit already (hint: write what it lacks, such as [source], to %s)", unit, other, file)
		}
	}
	return nil
}

// running returns the services that run, for a suggestion.
func running(ctx context.Context, m machine) []string {
	names, err := m.Alive(ctx, "*.service")
	if err != nil {
		return nil
	}
	return names
}

// givenBy are the arguments of init that a key of the target file has.
var givenBy = map[string]string{"source.repo": "--github", "source.url": "--manifest", "source.path": "FILE", "source.token_file": "--token-file"}

// acceptable returns the error with which the target file of a unit would be refused, without
// the name of the file, which is not kept.
func (a *app) acceptable(name, unit, text string) error {
	dir, err := os.MkdirTemp("", "machinemon-update-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name+".toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	err = a.targets.CheckFile(file)
	if e, is := errors.AsType[*target.ConfigError](err); is && e.File == file {
		what := strings.TrimPrefix(cmp.Or(givenBy[e.Key], e.Key)+": "+e.Problem, ": ")
		if e.Hint != "" {
			what += " (hint: " + e.Hint + ")"
		}
		return cli.Usagef("cannot describe %s: %s", unit, what)
	}
	return err
}

// described is what a target file says of a unit.
type described struct {
	unit, program string
	version       []string // the command that prints the version; nil if none is known
	ports         []netip.AddrPort
	from          initFrom
}

// describe finds out what the unit runs, and where it listens.
func describe(ctx context.Context, m machine, u systemd.Unit, name string, from initFrom) (d described, err error) {
	d = described{unit: u.Name, from: from}
	d.program, err = filepath.EvalSymlinks(u.Command[0])
	if errors.Is(err, fs.ErrNotExist) {
		return d, cli.Usagef("cannot describe %s: its program %s is not there", u.Name, u.Command[0])
	}
	if err != nil {
		return d, err
	}
	d.version = versionCommand(ctx, name, d.program)
	pids, err := m.Processes(ctx, u.Name)
	if err != nil {
		return d, err
	}
	d.ports, err = listening(pids)
	return d, err
}

// text returns the target file. The zero release is one that was not read.
func (d described) text(release newest) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by `machinemon-update init %s`; man machinemon-update.target explains all keys.\nunit = %q\n\n[source]\n%s\n", d.unit, d.unit, d.from.lines(release))
	if release.Product != "" {
		fmt.Fprintf(&b, "[trust]\n# As the manifest says; those of other products are refused.\nproduct = %q\n\n", release.Product)
	}
	entry, says := filepath.Base(d.program), "Its name in the archive; apply --dry-run says which names there are."
	if release.entries != nil {
		says = "Its name in " + release.File + "."
		if found := chooseEntry(release.entries, entry, release.Version); found != "" {
			entry = found
		} else {
			says = "No file of the archive has its name. " + release.File + " has " + target.SomeNames(release.entries) + "."
		}
	}
	fmt.Fprintf(&b, "[[install]]\n# %s\nfrom = %q\nto = %q\n\n[health]\n", state.Printable(says), entry, d.program)
	if d.version != nil {
		fmt.Fprintf(&b, "version_command = [%q, %q]\n", d.version[0], d.version[1])
	} else {
		fmt.Fprintf(&b, "# None of --version, version and -version printed a version.\n# version_command = [%q, \"--version\"]\n", d.program)
	}
	if len(d.ports) == 0 {
		b.WriteString("# It listens at no TCP port, so how the unit runs decides. See health.probe.\n")
	}
	for i, at := range d.ports {
		off := ""
		if i > 0 {
			off = "# "
		} else {
			b.WriteString("\n# Better a page that shows its health: http = \"http://" + at.String() + "/...\"\n")
		}
		fmt.Fprintf(&b, "%[1]s[[health.probe]]\n%[1]stcp = %q\n", off, at)
	}
	return b.String()
}

// lines returns the keys of the source.
func (f initFrom) lines(release newest) string {
	switch {
	case f.github != "":
		asset, says := "*{os}*{arch}*.tar.gz", "The archive among a release's files, with {os}, {arch}, {version} or {number}."
		if release.File != "" {
			asset = generalize(release.File, release.Version)
			says = "In release " + release.Version + " this is " + release.File + "."
		} else if release.Version != "" {
			says = "Write the name of the archive; none of release " + release.Version + " says " + manifest.Host() + ". It has " + target.SomeNames(release.Names) + "."
		}
		token := ""
		if f.token != "" {
			token = fmt.Sprintf("token_file = %q\n", f.token)
		}
		return fmt.Sprintf("type = \"github\"\nrepo = %q\n%s# %s\nasset = %q\n", f.github, token, state.Printable(says), asset)
	case f.manifest != "":
		return fmt.Sprintf("url = %q\n", f.manifest)
	case f.file != "":
		return fmt.Sprintf("type = \"file\"\npath = %q\n", f.file)
	}
	return "# Without a source only import brings releases.\n# type = \"github\"\n# repo = \"OWNER/NAME\"\n"
}

// source returns the source as arguments of the fetcher.
func (f initFrom) source() []string {
	switch {
	case f.github != "":
		return []string{target.SourceGitHub, f.github}
	case f.file != "":
		return []string{target.SourceFile, f.file}
	}
	return []string{target.SourceManifest, f.manifest}
}

// versionCommand returns the first usual command at which the program prints a version. It
// runs as a stranger, without a network.
func versionCommand(ctx context.Context, name, program string) []string {
	for _, word := range []string{"--version", "version", "-version"} {
		argv := []string{program, word}
		if installed.Version(ctx, &target.Target{Name: name, Health: target.Health{VersionCommand: argv}}, state.Status{}) != "" {
			return argv
		}
	}
	return nil
}
