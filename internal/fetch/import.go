package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// Import copies the release at path, which is all that a source of type "file"
// may be, into the new directory dir, where the fetcher may read it. Root alone
// calls it, for an operator who names the file: unlike a configured source it
// may lie where others can write. What was copied is verified as any release.
func Import(ctx context.Context, path, dir string) error {
	src := &disk{path: path, rootOnly: func(string) error { return nil }}
	r, err := look(ctx, src, "")
	if err != nil {
		return err
	}
	body, name, err := src.archive(ctx, r.platform)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, cause(err))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", dir, cause(err))
	}
	defer root.Close()
	f, err := root.OpenFile(r.platform.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot copy %s to %s: %w", name, dir, cause(err))
	}
	n, err := io.Copy(f, io.LimitReader(body, r.platform.Size))
	if err == nil && n < r.platform.Size {
		err = errors.New("it became shorter")
	}
	// For the fetcher's eyes, whatever the umask.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("cannot copy %s to %s: %w", name, dir, cause(err))
	}
	if err := state.WriteFile(dir+"/"+manifest.FileName, r.raw, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("cannot share %s: %w", dir, cause(err))
	}
	return nil
}
