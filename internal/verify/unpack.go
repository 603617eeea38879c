package verify

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// handOn makes a tree from the bundle, checks it and hands it on to the swapper.
func (v *verifier) handOn(t *target.Target, bundle *state.Bundle) error {
	return v.tree.HandOn(state.RoleVerify, v.name, v.attempt, func(tree *state.Bundle) (err error) {
		receipt := state.Receipt{Attempt: v.attempt, Platform: v.key}
		if v.receipt.Deltas {
			receipt.Files, err = v.patch(t, bundle, tree)
		} else {
			receipt.Files, err = v.unpack(t, bundle, tree)
		}
		if err != nil {
			return err
		}
		if program := t.Hooks.Program(v.key, v.manifest.Version); program != "" {
			if err := v.check(program, "", false, receipt.Files, tree); err != nil {
				return err
			}
		}
		for n, i := range t.Install {
			files, err := v.files(i, false)
			if err != nil {
				return err
			}
			to, entry := i.To, files[""]
			if i.Tree { // it may have programs for other machines, too
				to, entry = t.Health.Main, files[strings.TrimPrefix(t.Health.Main, i.To+"/")]
			}
			if err := v.check(entry, to, n == 0 || to == t.Health.Main, receipt.Files, tree); err != nil {
				return err
			}
		}
		if v.checks {
			return errChecked
		}
		return tree.Describe(v.raw, v.metadata, receipt)
	})
}

// unpack extracts what the target installs, as "0", "1" and so on, and compares it with
// the manifest's contents. A list in the archive adds files to the target. Because the
// archive is read only once, unpack extracts all files that the list could name, and
// removes those that it does not name. Of the entries that a glob matches it extracts only
// the first: a second one is an error.
func (v *verifier) unpack(t *target.Target, bundle, into *state.Bundle) ([]state.ReceiptFile, error) {
	log.Status("checking the archive")
	payload, err := v.archive(bundle, into)
	if err != nil {
		return nil, err
	}
	defer payload.Close()
	// Two archives and what is unpacked would be most of what an attempt needs. If this
	// program is killed now, nothing is lost: a claimed bundle is not taken again.
	if err := bundle.Remove(state.PayloadName); err != nil {
		return nil, fmt.Errorf("cannot remove the fetcher's archive: %w", durable.Cause(err))
	}
	log.Status("unpacking")
	limits, err := v.limits()
	if err != nil {
		return nil, err
	}
	version := v.manifest.Version
	list, program := t.Listing.Entry(v.key, version), t.Hooks.Program(v.key, version)
	v.entries = map[string]string{}
	found := map[string]bool{} // the globs of which an entry was extracted
	n := 0
	files, err := archive.Extract(io.NewSectionReader(payload, 0, v.platform.Size), into.Root, func(e archive.Entry) string {
		v.entries[e.Name] = e.Unusable
		listed := e.Unusable == "" && (t.Listing.MayName(e.Name, v.key, version) || t.Listing.LeavesOut(e.Name, v.key, version))
		if e.Name != list && e.Name != program && !listed && !v.installs(t.Install, e, found) {
			return ""
		}
		n++
		return strconv.Itoa(n - 1)
	}, limits)
	if err != nil {
		result := state.ResultRefused
		if _, onDisk := errors.AsType[*fs.PathError](err); onDisk {
			result = state.ResultFailed
		}
		return nil, state.Fail(result, "cannot unpack %s: %w", v.platform.File, err)
	}
	names := map[string]string{}
	for n, f := range files {
		names[f.Name] = strconv.Itoa(n)
	}
	wanted := map[string]bool{list: true, program: true} // no entry has the name ""
	if t.Listing != nil {
		excluded, err := v.addListed(t, names[list], into)
		if err != nil {
			return nil, err
		}
		for _, entry := range excluded {
			if _, described := v.platform.Contents[entry]; described || len(v.platform.Contents) == 0 {
				wanted[entry] = true
			}
		}
		v.see(t, excluded, files)
	}
	if err := v.complete(t.Install, names); err != nil {
		return nil, err
	}
	for _, i := range t.Install {
		files, err := v.files(i, false)
		if err != nil {
			return nil, err
		}
		for _, entry := range files {
			wanted[entry] = true
		}
	}
	return v.keepWanted(wanted, files, into)
}

// installs reports whether to extract an entry because of an install.
func (v *verifier) installs(installs []target.Install, e archive.Entry, found map[string]bool) bool {
	wanted := false
	for _, i := range installs {
		name := i.Name(v.key, v.manifest.Version)
		switch {
		case name == e.Name, i.Tree && i.Matches(v.key, v.manifest.Version, e.Name):
			wanted = true
		case e.Unusable == "" && !found[name] && i.Matches(v.key, v.manifest.Version, e.Name):
			found[name], wanted = true, true
		}
	}
	return wanted
}

// files returns the entries that are installed, as [target.Install.Files] does. For a glob
// only entries that can be extracted count, since the manifest's contents list no others;
// if a required one matches none of them, another entry shows why. With listed those count,
// too, that only the contents have.
func (v *verifier) files(i target.Install, listed bool) (map[string]string, error) {
	var usable []string
	all := slices.Collect(maps.Keys(v.entries))
	for name, why := range v.entries {
		if why == "" {
			usable = append(usable, name)
		}
	}
	if listed {
		usable = slices.AppendSeq(usable, maps.Keys(v.platform.Contents))
	}
	files, err := i.Files(v.key, v.manifest.Version, usable)
	_, named := v.entries[i.Name(v.key, v.manifest.Version)]
	if len(files) == 0 && err == nil && (named || !i.Optional) {
		files, err = i.Files(v.key, v.manifest.Version, all)
	}
	if err != nil {
		return nil, state.Refused("cannot unpack %s: %w", v.platform.File, err)
	}
	return files, nil
}

// limits returns the limit of the manifest's unpacked_size, or else [archive.Default]
// within half of the free space, because the swapper makes a copy, too.
func (v *verifier) limits() (archive.Limits, error) {
	l := archive.Default
	if v.platform.UnpackedSize > 0 {
		l.Unpacked = v.platform.UnpackedSize
		return l, nil
	}
	free, err := v.free()
	l.Unpacked = min(l.Unpacked, free/2)
	return l, err
}

// compare returns an error for a file that is not the one in the manifest's contents. A
// manifest without contents describes only the archive as a whole.
func (v *verifier) compare(f archive.File) error {
	if len(v.platform.Contents) == 0 {
		return nil
	}
	c, listed := v.platform.Contents[f.Name]
	if !listed {
		return state.Refused("cannot use %s: the manifest's contents do not list its entry %s", v.platform.File, f.Name)
	}
	if c.Size != f.Size || c.SHA256 != f.SHA256 {
		return state.Refused("cannot use %s: its entry %s is not the one in the manifest's contents", v.platform.File, f.Name)
	}
	return nil
}

// check returns an error for a program that cannot run here, and for a file of another
// kind than the installed file that it would replace. Only the unit's program must stay
// what it was, ELF or script: a publisher may write a helper again in another language.
func (v *verifier) check(entry, to string, main bool, files []state.ReceiptFile, tree *state.Bundle) error {
	at := slices.IndexFunc(files, func(f state.ReceiptFile) bool { return f.Entry == entry })
	if at < 0 {
		return nil // optional, and not in this release
	}
	f, err := tree.Open(files[at].Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := archive.CheckArch(f, v.key); err != nil {
		return state.Refused("cannot use %s: its entry %s: %w (hint: the publisher's archive for %s must have a program for it; "+
			"source.asset chooses the archive by {arch} or {machine})", v.platform.File, entry, err, v.key)
	}
	was, is := installedKind(to), kindOf(f)
	if !main && was.runs() && is.runs() {
		return nil
	}
	if was == program && is != program || (was == text || was == script) && is == program {
		return state.Refused("cannot use %s: its entry %s is %s, and %s is %s", v.platform.File, entry, is, to, was)
	}
	return nil
}

// kind is the rough type of a file.
