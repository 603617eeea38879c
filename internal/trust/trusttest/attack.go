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

// Attack is something that a hostile mirror, a thief of keys or a publisher can do to a
// client. Play performs it, and calls [Repo.Check] at each step.
type Attack struct {
	Name string
	Play func(r *Repo)
}

// Attacks returns all known attacks: on the metadata, and on the JSON of metadata and
// manifests. Each package that verifies a repository has a test that runs them.
func Attacks() []Attack { return append(onMetadata(), onJSON()...) }

// Run plays the attack, and then checks that the client takes the next good release.
func (a Attack) Run(r *Repo) {
	r.t.Helper()
	a.Play(r)
	next := int(r.manifest.Sequence) + 1
	r.Release(next)
	r.Check(next)
}

// Attack makes a change, checks that the client refuses it so, and undoes it.
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

// Beyond reports whether a refusal concerns a signed manifest, about which TUF says
// nothing, instead of the metadata.
func Beyond(refusal string) bool {
	return !slices.ContainsFunc(roles, func(r trust.Role) bool {
		return strings.HasPrefix(refusal, string(r)+" v") || strings.HasPrefix(refusal, string(r)+": ")
	})
}

var roles = []trust.Role{trust.RoleRoot, trust.RoleTimestamp, trust.RoleSnapshot, trust.RoleTargets}

// Learned lists what a client has stored although it refused: of the refused role and of
// those that are verified after it. Roles verified earlier may be new, and so may an
// expired root, because another can follow it. A manifest is verified after all roles, so
// after its refusal Learned returns nil.
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
