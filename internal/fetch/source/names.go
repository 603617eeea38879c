package source

import (
	"context"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Names returns the version of the newest release of the target's repository on GitHub, and
// the names of its files. It reads no file.
func Names(ctx context.Context, t *target.Target, l download.Limits) (version string, names []string, err error) {
	g, err := newGitHub(t, "", l)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := l.Brief(ctx)
	defer cancel()
	if err := g.askAPI(ctx, cached{}); err != nil {
		return "", nil, err
	}
	for _, a := range g.release.Assets {
		if a.complete() {
			names = append(names, a.Name)
		}
	}
	return g.version(), names, nil
}
