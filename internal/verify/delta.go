package verify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/machinemon/machinemon-update/internal/delta"
	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// patch makes what the target installs from the installed files and the bundle's deltas,
// under names as unpack gives them. If that fails, it asks the fetcher for the archive.
// The request needs the order of the attempt, which does not survive a reboot.
func (v *verifier) patch(t *target.Target, bundle, into *state.Bundle) ([]state.ReceiptFile, error) {
	order, err := v.order()
	if err != nil {
		return nil, err
	}
	if order.Attempt == "" {
		return v.patched(t, bundle, into)
	}
	ask := func(why string) (*state.Fallback, error) {
		f := &state.Fallback{Attempt: v.attempt, Reason: why}
		return f, v.tree.SetFallback(v.name, *f)
	}
	// It is written first: a verifier that needs too much memory is killed.
	if _, err := ask("the verifier was stopped while it applied them"); err != nil {
		return nil, err
	}
	files, err := v.patched(t, bundle, into)
	if err == nil {
		err = v.tree.DropFallback(v.name)
	}
	if err != nil {
		asked, failed := ask(err.Error())
		v.asked = asked
		return nil, errors.Join(err, failed)
	}
	return files, nil
}

func (v *verifier) patched(t *target.Target, bundle, into *state.Bundle) ([]state.ReceiptFile, error) {
	deltas := map[string]string{}
	for _, f := range v.receipt.Files {
		deltas[f.Entry] = f.Name
	}
	made, err := v.recordedList(t, into)
	if err != nil {
		return nil, err
	}
	v.entries = map[string]string{}
	for entry := range v.platform.Contents {
		v.entries[entry] = ""
	}
	seen := map[string]bool{}
	for _, i := range t.Install {
		if i.Tree {
			return nil, state.Refused("cannot make %s by delta: it is a directory", i.Name(v.key, v.manifest.Version))
		}
		files, err := v.files(i, false)
		if err != nil {
			return nil, err
		}
		entry := files[""]
		want, listed := v.platform.Contents[entry]
		if seen[entry] || !listed && i.Optional {
			continue
		}
		if !listed {
			return nil, state.Refused("cannot make %s by delta: the manifest's contents do not list it", i.Name(v.key, v.manifest.Version))
		}
		seen[entry] = true
		name := strconv.Itoa(len(made))
		if err := v.patchOne(i.To, entry, want, deltas[entry], bundle, into, name); err != nil {
			return nil, err
		}
		made = append(made, state.ReceiptFile{Entry: entry, Name: name})
	}
	return made, nil
}

// recordedList adds the files of the release's own list to the target. The list must be the
// installed release's, which root's record has.
func (v *verifier) recordedList(t *target.Target, into *state.Bundle) ([]state.ReceiptFile, error) {
	entry := t.Listing.Entry(v.key, v.manifest.Version)
	if entry == "" {
		return nil, nil
	}
	st, err := v.tree.Status(state.RoleSwap, v.name)
	if err != nil {
		return nil, err
	}
	list := ""
	if st.Installed != nil {
		list = st.Installed.List
	}
	ok, err := t.AddRecorded(list, v.platform.Contents, v.key, v.manifest.Version)
	if err != nil {
		return nil, state.Refused("cannot use %s: %w", entry, err)
	}
	if !ok {
		return nil, state.Refused("cannot make the release by delta: its %s is not that of the installed release", entry)
	}
	if _, listed := v.platform.Contents[entry]; !listed {
		return nil, nil
	}
	const name = "0"
	out, err := into.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		defer out.Close()
		if _, err = io.WriteString(out, list); err == nil {
			err = out.Sync()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write %s: %w", entry, durable.Cause(err))
	}
	return []state.ReceiptFile{{Entry: entry, Name: name}}, nil
}

// patchOne makes one entry of the archive from the installed file, which may be that entry
// already. It trusts neither file nor delta, and verifies the result.
func (v *verifier) patchOne(installed, entry string, want manifest.Content, name string, bundle, into *state.Bundle, to string) error {
	old, from, err := openOld(installed)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", installed, durable.Cause(err))
	}
	defer old.Close()
	write := func(w io.Writer) (sum string, err error) {
		sum, _, err = durable.CopySHA256(w, old.section)
		return sum, err
	}
	if from != want.SHA256 {
		d, ok := v.platform.Delta(entry, from)
		if !ok || name == "" {
			return state.Refused("cannot make %s by delta: there is none for %s, whose sha256 is %s", entry, installed, from)
		}
		payload, err := v.copyPayload(bundle, name, manifest.Platform{File: d.File, SHA256: d.SHA256, Size: d.Size, UnpackedSize: want.Size})
		if err != nil {
			return err
		}
		defer payload.Close()
		log.Status("applying " + d.File)
		write = func(w io.Writer) (string, error) {
			return delta.Patch(w, io.NewSectionReader(payload, 0, d.Size), old.section, want.Size)
		}
	}
	out, err := into.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		defer out.Close()
		var sum string
		if sum, err = write(out); err == nil {
			err = out.Sync()
		}
		if err == nil && sum != want.SHA256 {
			err = state.Refused("its sha256 is then %s, the manifest says %s", sum, want.SHA256)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make %s by delta: %w", entry, durable.Cause(err))
	}
	return nil
}

// oldFile is an installed file, of the size that it had when it was opened.
type oldFile struct {
	*os.File
	section *io.SectionReader
}

// openOld opens an installed file, which may change while it is read, and returns its digest.
func openOld(path string) (*oldFile, string, error) {
	f, err := durable.OpenRegular(path)
	if err != nil {
		return nil, "", err
	}
	old := &oldFile{File: f}
	info, err := f.Stat()
	if err == nil && info.Size() > delta.MaxFile {
		err = fmt.Errorf("%w than %d bytes", durable.ErrTooLarge, delta.MaxFile)
	}
	sum := ""
	if err == nil {
		old.section = io.NewSectionReader(f, 0, info.Size())
		sum, _, err = durable.SHA256(old.section)
	}
	if err == nil {
		_, err = old.section.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return old, sum, nil
}
