package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// maxAddress is how many bytes of standard input are read as an address.
const maxAddress = 64 << 10

// importRelease is apply with a release that the operator names instead of the source's.
// version is that of an archive without a manifest, or "".
func (a *app) importRelease(args []string, version string) error {
	address := args[1]
	if address == "-" {
		line, err := bufio.NewReader(io.LimitReader(a.in, maxAddress)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read the address from standard input: %w", err)
		}
		address = strings.TrimSpace(line)
	}
	named, err := target.ParseNamed(address)
	if err != nil {
		return cli.Usagef("%w", err)
	}
	if version != "" && !manifest.ValidName(version) {
		return cli.Usagef("cannot import %s: %q is not a version", named, state.Printable(version))
	}
	if named.Path != "" {
		if named.Path, err = filepath.Abs(named.Path); err != nil {
			return fmt.Errorf("cannot import %s: %w", address, err)
		}
	}
	return a.each(args[:1], func(ctx context.Context, name string) (state.Attempt, error) {
		req := state.Request{Verb: state.VerbApply, Import: named.Path != "", URL: named.URL, SHA256: named.SHA256, Version: version}
		return a.attempt(ctx, name, req, func() error {
			warning := ""
			if req.Import {
				if err := errors.Join(a.tree.MakeSwapDir(name), a.tree.DropImport(name)); err != nil {
					return err
				}
				copied, err := a.askFetcher(ctx, "import", name, named.Path, named.SHA256, version)
				if err != nil {
					return err
				}
				if copied.Result != state.ResultHandedOn {
					return state.Fail(copied.Result, "%s", copied.Reason)
				}
				warning = copied.Warning
			} else if named.SHA256 == "" {
				warning = named.Unvouched()
			}
			a.warnAbout(name, warning)
			if args[1] != "-" && strings.Contains(named.URL, "?") {
				a.warnAbout(name, fmt.Sprintf("while this command runs, every user can see its arguments, with the query of the address "+
					"(hint: if that is a secret, machinemon-update import %s - reads the address from standard input)", name))
			}
			return nil
		})
	})
}
