package swap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/machinemon/machinemon-update/internal/installed"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"golang.org/x/sys/unix"
)

// largest is the size limit, in bytes, of a file whose size no manifest states.
const largest = 4 << 30

// claim takes the operator's request to go back or for a drill, or else the verifier's
// newest tree. entry is nil for such a request; attempt is empty, too, if there is neither. A
// tree that is there at the same time starts this unit again: no verifier can keep the
// operator from going back, or take another request away.
func (sw *swapping) claim() (attempt state.AttemptID, entry *state.Bundle, err error) {
	if req, err := sw.Tree.Request(sw.name); err != nil || req != nil && req.Verb.FromHere() {
		if attempt, err := sw.takeRequest(); err != nil || attempt != "" {
			return attempt, nil, err
		}
	}
	return sw.take()
}

// take takes the newest entry of the verifier's spool. An entry that cannot be taken would
// start this unit again and again, so the whole spool goes.
func (sw *swapping) take() (state.AttemptID, *state.Bundle, error) {
	// Do not ask for a pending attempt first: any entry may have started this unit.
	attempt, entry, err := sw.Tree.Claim(state.RoleVerify, sw.name)
	if err != nil {
		foreign, failed := sw.Tree.ClearSpool(state.RoleVerify, sw.name)
		sw.tell(state.RoleVerify, sw.name, foreign, failed)
	}
	return attempt, entry, err
}

// takeRequest takes the operator's request that needs no release, and writes its order. The
// attempt is empty if there is none.
func (sw *swapping) takeRequest() (state.AttemptID, error) {
	req, err := sw.Tree.TakeRequest(sw.name)
	if err != nil || req == nil { // it has expired
		return "", err
	}
	st, err := sw.Tree.Status(state.RoleSwap, sw.name)
	if err != nil {
		return "", err
	}
	from := ""
	if st.Installed != nil {
		from = st.Installed.Version
	}
	return req.Attempt, sw.Tree.SetOrder(sw.name, state.Order{Attempt: req.Attempt,
		Origin: state.OriginOperator, Verb: req.Verb, Installed: from, MainID: req.MainID})
}

// planTree stages the files of a verified tree: it copies them, hashes the copies, and
// compares the hashes with the manifest's contents.
func (sw *swapping) planTree(ctx context.Context, entry *state.Bundle) error {
	m, err := sw.believe(entry)
	if err != nil {
		return err
	}
	j, t := sw.journal, sw.target
	if t.Trust.Product != "" && m.Product != t.Trust.Product {
		return state.Fail(state.ResultRefused, "cannot use the manifest: it is of product %q, target %s wants %q", m.Product, t.Name, t.Trust.Product)
	}
	// The fetcher has asked the policy, too, but root does not trust it.
	sw.known.Release = &policy.Release{Version: m.Version, Sequence: m.Sequence, Disabled: m.Disabled, Staged: true}
	if d := policy.Decide(sw.known); d.Refused() {
		return d.Err()
	}
	host := manifest.Host()
	p, err := m.Platform(host)
	if err != nil {
		return state.Fail(state.ResultRefused, "cannot use the manifest: %w", err)
	}
	j.Archive = p.SHA256
	if sw.proof != nil {
		if p.Contents, err = sw.contents(ctx, entry, p); err != nil {
			return err
		}
	}
	receipt, err := entry.Receipt()
	if err != nil {
		return state.Fail(state.ResultRefused, "%w", err)
	}
	where := map[string]string{}
	for _, f := range receipt.Files {
		where[f.Entry] = f.Name
	}
	if err := sw.addListed(entry, where, p, host); err != nil {
		return err
	}
	if err := sw.stageProgram(entry, where, p, t.Hooks.Program(host, m.Version)); err != nil {
		return err
	}
	if err := t.CheckDestinations(sw.others(t.Name)); err != nil {
		return err
	}
	// Only the contents are signed; without them, the verifier's word counts.
	names := slices.Collect(maps.Keys(p.Contents))
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(where))
	}
	err = sw.makeRoom(func(i target.Install) int64 {
		files, err := i.Files(host, m.Version, names)
		if err != nil {
			return 0 // staging reports it
		}
		size := int64(0)
		for _, name := range files {
			size += entrySize(entry, where[name])
		}
		return size
	})
	if err != nil {
		return err
	}
	for _, inst := range t.Install {
		if inst.Tree {
			files, err := inst.Files(host, m.Version, names)
			if err == nil && len(files) == 0 && !inst.Optional {
				err = fmt.Errorf("cannot find %s in the release", inst.Name(host, m.Version))
			}
			if err != nil {
				return state.Fail(state.ResultRefused, "cannot install %s: %w", inst.To, err)
			}
			if len(files) > 0 {
				err = sw.planDirectory(entry, inst, files, where, p)
			}
			if err != nil {
				return err
			}
			continue
		}
		name, err := inst.Find(host, m.Version, names)
		if err != nil {
			return state.Fail(state.ResultRefused, "cannot install %s: %w", inst.To, err)
		}
		from, ok := where[name]
		want, inContents := p.Contents[name]
		if !ok && inst.Optional && !inContents {
			continue
		}
		if !ok {
			return state.Fail(state.ResultRefused, "cannot find %s in the release", inst.Name(host, m.Version))
		}
		if len(p.Contents) > 0 && !inContents {
			return state.Fail(state.ResultRefused, "cannot install %s: the manifest's contents do not list it", name)
		}
		own, err := ownershipOf(inst)
		if err != nil {
			return state.Fail(state.ResultMisconfigured, "cannot install %s: %w", inst.To, err)
		}
		c, err := sw.stage(ctx, inst.To, own, func(staged string, room int64) (string, error) {
			return sw.stageEntry(entry, from, staged, want, inContents, room, false)
		})
		if err != nil {
			return err
		}
		if inContents && c.New != want.SHA256 {
			return state.Fail(state.ResultRefused, "cannot install %s: its sha256 is %s, the manifest says %s", name, c.New, want.SHA256)
		}
		was := sw.status.Installed.File(c.To)
		if err := sw.unattended(c, was); err != nil {
			return err
		}
		if inst.Listed && was == nil {
			if err := theirs(c); err != nil {
				return err
			}
		}
		c.Created = c.Old == "" || was != nil && was.Created
		sw.add(c)
	}
	if err := sw.planObsolete(); err != nil {
		return err
	}
	return sw.planSnapshot()
}

// planPrevious stages the kept release, which has run here before. It copies or links the
// backups instead of moving them, because they must survive this trial.
func (sw *swapping) planPrevious(ctx context.Context) error {
	prev := sw.status.Previous
	if prev == nil {
		return state.Fail(state.ResultNotAttempted, "cannot go back: no previous release of %s is kept (hint: sudo machinemon-update import %[1]s FILE installs a release that you have)", sw.name)
	}
	sw.journal.Version, sw.journal.Sequence, sw.journal.Unsigned = prev.Version, prev.Sequence, prev.Unsigned
	sw.journal.Archive, sw.journal.Listed = prev.Archive, prev.Listed
	for _, f := range prev.Files {
		if !slices.ContainsFunc(sw.target.Install, func(i target.Install) bool { return i.To == f.To }) {
			sw.target.Install = append(sw.target.Install, installed.Formerly(f))
		}
	}
	if err := sw.target.CheckDestinations(sw.others(sw.name)); err != nil {
		return err
	}
	if f := sw.stranded(sw.name, prev); f != nil {
		return state.Fail(state.ResultRefused, "cannot go back: %s has another owner since the backup %s was made", filepath.Dir(f.To), f.Backup)
	}
	for _, f := range prev.Files {
		own := ownership{uid: -1, gid: -1}
		if f.SHA256 == "" {
			if err := sw.gone(f.To); err != nil {
				return err
			}
			continue
		}
		if f.Tree != nil {
			if err := sw.planPreviousTree(f); err != nil {
				return err
			}
			continue
		}
		c, err := sw.stage(ctx, f.To, own, func(staged string, _ int64) (string, error) {
			// A link would share its bytes with the backup, and once it is installed a
			// program may write the file in place.
			sum, err := copyWhole(staged, f.Backup)
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) { // on a full disk, going back matters more
				if err = remove(staged); err == nil { // what was copied of it
					err = os.Link(f.Backup, staged)
				}
				if err == nil {
					sum, err = digest(staged)
				}
			}
			return sum, err
		})
		if err != nil {
			return err
		}
		if c.New != f.SHA256 {
			return state.Fail(state.ResultRefused, "cannot go back: the backup %s was changed", f.Backup)
		}
		if sw.status.Installed.File(c.To) == nil { // the installed release has no file there
			if err := theirs(c); err != nil {
				return err
			}
		}
		c.Created, c.Private = f.Created, f.Private
		sw.add(c)
	}
	return sw.planSnapshot()
}

// theirs refuses to overwrite a file that no update has installed.
func theirs(c state.Change) error {
	if c.Old == "" || c.Old == c.New {
		return nil
	}
	return state.Fail(state.ResultRefused, "cannot install %s: a file of that name is there, and no update has brought it "+
		"(hint: move it away; or name it in an [[install]] of the target file, which then lists all of them)", c.To)
}

func (sw *swapping) add(c state.Change) {
	sw.journal.Changes = append(sw.journal.Changes, c)
	if c.Kind == state.KindReplace && isUnitFile(c.To) && c.Old != c.New {
		sw.journal.Reload = true
	}
}
