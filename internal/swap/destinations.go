package swap

import (
	"context"
	"slices"
	"strings"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/target"
)

// letWrite reloads systemd if the target file names a directory that the generator has
// not yet listed for the swap unit, which may write only to the listed ones.
func (s *Swapper) letWrite(ctx context.Context, t *target.Target) error {
	u, err := s.Systemd.Unit(ctx, unitOf("swap", t.Name))
	if err != nil {
		return err
	}
	for _, dir := range t.Directories() {
		if !slices.ContainsFunc(u.Writable, func(w string) bool {
			return strings.TrimLeft(w, "-+") == dir // "-" before it lets a directory be missing
		}) {
			s.logf("%s: the target file has changed: reloading systemd", t.Name)
			return s.Systemd.Reload(ctx)
		}
	}
	return nil
}

// others loads the other targets, except those whose file is invalid: such a file must
// not keep this target from its update.
func (s *Swapper) others(name string) []*target.Target {
	all, errs := installed.Others(s.Tree, s.Targets, name)
	for _, err := range errs {
		s.logf("%s: %v", name, err)
	}
	return all
}
