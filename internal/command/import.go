package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/cli"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// importRelease is apply with a release that the operator names instead of the source's.
func (a *app) importRelease(args []string) error {
	named, err := target.ParseNamed(args[1])
	if err != nil {
		return cli.Usagef("%w", err)
	}
	if named.Path != "" {
		if named.Path, err = filepath.Abs(named.Path); err != nil {
			return fmt.Errorf("cannot import %s: %w", args[1], err)
		}
	}
	return a.each(args[:1], func(ctx context.Context, name string) (state.Attempt, error) {
		req := state.Request{Verb: state.VerbApply, Import: named.Path != "", URL: named.URL, SHA256: named.SHA256}
		return a.attempt(ctx, name, req, func() error {
			warning := ""
			if req.Import {
				if err := errors.Join(a.tree.MakeSwapDir(name), a.tree.DropImport(name)); err != nil {
					return err
				}
				copied, err := a.askFetcher(ctx, "import", name, named.Path, named.SHA256)
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
			return nil
		})
	})
}
