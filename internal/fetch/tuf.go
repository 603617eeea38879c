package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// repository is a source whose releases may be signed.
type repository interface {
	source
	// name is for messages.
	name() string
	// beside reads a file of at most so many bytes that is beside the manifest. The
	// error is fs.ErrNotExist where the source says that there is none.
	beside(ctx context.Context, file string, most int64) ([]byte, error)
}

// gather asks a repository for what a client needs that has this pin and this
// state. Nothing of it is verified.
func gather(ctx context.Context, repo repository, pin []byte, known trust.State) (trust.Metadata, error) {
	b, err := metadata(ctx, repo, pin, known)
	if err == nil {
		b.Manifest, err = after(ctx, repo, trust.RoleTargets, b.Targets)
	}
	return b, err
}

// after gets what a client asks for once it has metadata of this role.
func after(ctx context.Context, repo repository, role trust.Role, of []byte) ([]byte, error) {
	file, most, err := trust.Next(role, of)
	if err != nil {
		return nil, refused("cannot trust %s: %w", repo.name(), err)
	}
	return repo.beside(ctx, file, most)
}

// metadata is gather without the manifest. Beside an error it is what was there.
func metadata(ctx context.Context, repo repository, pin []byte, known trust.State) (b trust.Metadata, err error) {
	at := pin
	if n := len(known.Roots); n > 0 && known.Pin == manifest.Digest(pin) {
		at = known.Roots[n-1]
	}
	for size := 0; ; size += len(at) {
		root, err := after(ctx, repo, trust.RoleRoot, at)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return b, err
		}
		if len(b.Roots) == trust.MaxRotations || size > trust.MaxMetadata {
			return b, refused("cannot trust %s: it has roots without end", repo.name())
		}
		b.Roots = append(b.Roots, root)
		at = root
	}
	if b.Timestamp, err = repo.beside(ctx, trust.TimestampFile, trust.MaxTimestamp); errors.Is(err, fs.ErrNotExist) {
		return b, refused("cannot trust %s: there is no %s beside it, so its releases are not signed", repo.name(), trust.TimestampFile)
	}
	if err == nil {
		b.Snapshot, err = after(ctx, repo, trust.RoleTimestamp, b.Timestamp)
	}
	if err == nil {
		b.Targets, err = after(ctx, repo, trust.RoleSnapshot, b.Snapshot)
	}
	return b, err
}

// pinned is the source as a repository, and the root that its releases are
// verified from.
func pinned(src source, t *target.Target) (repository, []byte, error) {
	repo, ok := src.(repository)
	if !ok {
		return nil, nil, refused("cannot use this source of %s: nothing but signed metadata vouches for its releases (trust.mode = %q), "+
			"and neither GitHub nor an archive's address has any (hint: a source of type \"manifest\" or \"file\" that machinemon-release signs)", t.Name, t.Trust.Mode)
	}
	pin, err := t.Pin()
	if err != nil {
		return nil, nil, refused("%w", err)
	}
	return repo, pin, nil
}

// signed reads what a signed repository offers this machine.
func (f *fetcher) signed(ctx context.Context, src source, t *target.Target, keep bool) (*release, error) {
	repo, pin, err := pinned(src, t)
	if err != nil {
		return nil, err
	}
	var root trust.State
	if err := f.tree.Trust(state.RoleSwap, f.name, &root); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.limits.manifest, fmt.Errorf("it took longer than %v", f.limits.manifest))
	defer cancel()
	found, err := gather(ctx, repo, pin, root)
	if err != nil {
		return nil, err
	}
	m, signed, err := f.check(repo, pin, root, found, keep)
	if err != nil {
		return nil, err
	}
	floor, err := f.tree.Floor(f.name)
	if err != nil {
		return nil, err
	}
	terms := trust.Terms{Product: t.Trust.Product, Platform: manifest.Host(), Floor: floor, Installed: f.order.Installed}
	if err := terms.Check(m); err != nil {
		return nil, refused("cannot use %s: %w", repo.name(), err)
	}
	r := &release{raw: found.Manifest, manifest: m, key: manifest.Host(), signed: signed}
	if r.platform, err = m.Platform(r.key); err != nil {
		return nil, refused("cannot use %s: %w", repo.name(), err)
	}
	if r.metadata, err = found.Encode(); err != nil {
		return nil, refused("cannot use %s: %w", repo.name(), err)
	}
	return r, nil
}

// check verifies what was found, from this role's own state on if it keeps one. It
// may be behind root's: what that knows of roots comes first.
func (f *fetcher) check(repo repository, pin []byte, root trust.State, found trust.Metadata, keep bool) (*manifest.Manifest, []state.Signed, error) {
	client := trust.Client{Pin: pin, Clock: time.Now(), Built: trust.Built()}
	if err := f.tree.Trust(state.RoleFetch, f.name, &client.State); err != nil {
		return nil, nil, err
	}
	if root.Pin == manifest.Digest(pin) {
		found.Roots = append(append([][]byte{}, root.Roots...), found.Roots...)
	}
	good, seen, err := client.Check(found)
	if keep {
		if err := f.tree.SetTrust(state.RoleFetch, f.name, seen); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		hint := ""
		if e, ok := errors.AsType[*trust.Error](err); ok && e.Expired {
			hint = " (hint: its publisher has to sign anew; the next check will see it)"
		}
		return nil, nil, refused("cannot trust %s: %w%s", repo.name(), err, hint)
	}
	var signed []state.Signed
	for _, s := range good.Signed {
		signed = append(signed, state.Signed{Role: string(s.Role), Version: s.Version, Expires: s.Expires.UTC()})
	}
	return good.Manifest, signed, nil
}
