package swap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/signature"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

const (
	// lister is the program that lists an archive: only the verifier parses archives.
	lister = "/usr/lib/machinemon-update/verifier"
	// listTime is enough for an archive of the greatest size that is unpacked.
	listTime = 10 * time.Minute
	// maxListing is enough for the greatest number of entries, with names of 300 bytes.
	maxListing = 4 << 20
)

// vouched verifies a manifest in trust mode signature. If it is signed, but not for this
// machine, vouched returns both the manifest and an error.
func (sw *swapping) vouched(entry *state.Bundle, raw []byte) (m *manifest.Manifest, err error) {
	evidence, err := entry.Metadata(signature.MaxEvidence)
	if err != nil {
		return nil, state.Fail(state.ResultRefused, "%w", err)
	}
	m, sw.proof, err = signature.Verifier{Tree: sw.Tree, Target: sw.target, Platform: manifest.Host(), Installed: sw.attempt.From,
		From: "what the verifier handed on", Clock: time.Now()}.Manifest(evidence, raw)
	if err == nil && sw.proof != nil {
		err = sw.handedOn()
	}
	return m, err
}

// contents returns the digests of the files in the archive that the publisher has signed,
// so that only these files can be installed. Root checks a copy of its own.
func (sw *swapping) contents(ctx context.Context, entry *state.Bundle, p manifest.Platform) (map[string]manifest.Content, error) {
	log.Status("checking the archive")
	path, err := sw.copyArchive(entry, p)
	if path != "" {
		defer os.Remove(path) // if this fails, Tidy removes it
	}
	if err != nil {
		return nil, err
	}
	r, err := sw.Systemd.Try(ctx, systemd.Sandbox{
		Unit:   "machinemon-preflight@" + sw.name + ".service",
		Argv:   []string{lister, "--list"},
		User:   target.Account("gate", sw.name), // neither the verifier's nor one that runs a release
		Input:  path,
		Output: filepath.Join(sw.Tree.Run, "attempt", sw.name+".preflight"),
		Time:   listTime, MaxOutput: maxListing,
	})
	if err != nil {
		return nil, state.Fail(state.ResultFailed, "cannot list %s: %w", p.File, err)
	}
	var listing struct {
		Contents map[string]manifest.Content
		Error    string
	}
	if err := json.Unmarshal([]byte(r.Output), &listing); err != nil || r.Exec || r.Signal {
		return nil, state.Fail(state.ResultFailed, "cannot list %s: its list is damaged, or larger than %d bytes (%s)", p.File, maxListing, r.Detail)
	}
	if listing.Error != "" || len(listing.Contents) == 0 {
		return nil, state.Fail(state.ResultRefused, "cannot list %s: %s", p.File, state.Line(listing.Error))
	}
	return listing.Contents, nil
}

// copyArchive copies the archive of a verified tree, and checks the copy. path is that of
// the copy, also beside an error, or "" if there is none.
func (sw *swapping) copyArchive(entry *state.Bundle, p manifest.Platform) (path string, err error) {
	in, f, frees, err := entry.OpenOnce(state.PayloadName)
	if err != nil {
		return "", state.Fail(state.ResultRefused, "%w", err)
	}
	defer f.Close()
	failed := func(err error) error {
		return fmt.Errorf("cannot copy %s: %w%s", p.File, durable.Cause(err), hint(err))
	}
	dir := sw.Tree.Dir(state.RoleSwap, sw.name)
	info, err := f.Stat()
	if err != nil {
		return "", failed(err)
	}
	need := spaceFor(info, frees, dir)
	if free, err := state.Free(dir); err != nil {
		return "", failed(err)
	} else if need > free {
		return "", failed(fmt.Errorf("it needs %d bytes in %s, %d are free", need, dir, free))
	}
	out, err := os.CreateTemp(dir, state.TempPayload+"*")
	if err != nil {
		return "", failed(err)
	}
	defer out.Close()
	sum, _, err := durable.CopySHA256(out, io.LimitReader(in, p.Size+1))
	if err != nil {
		return out.Name(), failed(err)
	}
	if sum != p.SHA256 {
		return out.Name(), state.Fail(state.ResultRefused, "cannot use %s: its sha256 is %s, the manifest says %s", p.File, sum, p.SHA256)
	}
	return out.Name(), sw.proof.Check(io.NewSectionReader(out, 0, p.Size))
}

// unnamed reports whether only the program itself can say which version it is.
func (sw *swapping) unnamed() bool { return sw.proof != nil && sw.proof.Unnamed }

// unproven returns an error if the program must say its version, but cannot run now.
func (sw *swapping) unproven() error {
	if !sw.unnamed() {
		return nil
	}
	return state.Fail(state.ResultRefused, "cannot verify the archive of %s: its signature does not say which version it is of, and health.version_command cannot run the new program "+
		"(hint: health.version_command must be the program that [[install]] replaces; the first release of a program is installed by hand)", sw.journal.Version)
}
