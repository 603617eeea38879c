package trusttest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Attack is one thing that a hostile mirror, a thief of keys or a publisher can do
// to a client. Play lets it happen, by [Repo.Check] in between.
type Attack struct {
	Name string
	Play func(r *Repo)
}

// Attacks are all that is known: on the metadata, and by the JSON of metadata and
// manifests. Whoever believes a repository has a test that runs them.
func Attacks() []Attack { return append(onMetadata(), onJSON()...) }

// Run plays it, and then sees the next good release taken.
func (a Attack) Run(r *Repo) {
	r.t.Helper()
	a.Play(r)
	next := int(r.manifest.Sequence) + 1
	r.Release(next)
	r.Check(next)
}

// Attack lets a client look while something is wrong, which is undone then.
func (r *Repo) Attack(refusal string, change func()) {
	r.t.Helper()
	good := *r
	good.Files, good.Keys = maps.Clone(r.Files), maps.Clone(r.Keys)
	good.Root = clone(r, r.Root, metadata.Root())
	good.Timestamp = clone(r, r.Timestamp, metadata.Timestamp())
	good.Snapshot = clone(r, r.Snapshot, metadata.Snapshot())
	good.Targets = clone(r, r.Targets, metadata.Targets())
	change()
	r.Check(refusal)
	*r = good
}

func clone[T metadata.Roles](r *Repo, m, empty *metadata.Metadata[T]) *metadata.Metadata[T] {
	r.t.Helper()
	c, err := empty.FromBytes(encode(r, m))
	r.must(err)
	return c
}

// Beyond reports whether a refusal is of a signed manifest, about which TUF says
// nothing, and not of the metadata.
func Beyond(refusal string) bool {
	return !slices.ContainsFunc(roles, func(r trust.Role) bool {
		return strings.HasPrefix(refusal, string(r)+" v") || strings.HasPrefix(refusal, string(r)+": ")
	})
}

var roles = []trust.Role{trust.RoleRoot, trust.RoleTimestamp, trust.RoleSnapshot, trust.RoleTargets}

// Learned names what a client that refused has stored all the same: of the role
// that was refused and of those that are verified after it. What is verified before
// may be new; so may a root that has expired, since another can follow it. A manifest
// comes after all of them.
func Learned(refusal string, before, after trust.State) (what []string) {
	if Beyond(refusal) || strings.Contains(refusal, manifest.FileName) {
		return nil
	}
	if !before.Seen.Equal(after.Seen) {
		what = append(what, "the time")
	}
	was := map[trust.Role][]byte{trust.RoleTimestamp: before.Timestamp, trust.RoleSnapshot: before.Snapshot, trust.RoleTargets: before.Targets}
	is := map[trust.Role][]byte{trust.RoleTimestamp: after.Timestamp, trust.RoleSnapshot: after.Snapshot, trust.RoleTargets: after.Targets}
	refused := false
	for _, role := range roles {
		refused = refused || strings.HasPrefix(refusal, string(role))
		if refused && !bytes.Equal(was[role], is[role]) {
			what = append(what, string(role))
		}
	}
	var version int64
	if _, err := fmt.Sscanf(refusal, "root v%d:", &version); err == nil && !strings.Contains(refusal, ": expired on ") {
		for _, root := range after.Roots {
			if next, _, err := trust.Next(trust.RoleRoot, root); err != nil || next == fmt.Sprintf("%d.root.json", version+1) {
				what = append(what, "the root")
			}
		}
	}
	return what
}
