// Package fetch brings a release from its source to the verifier.
//
// It runs as an account of target T, in the only role with a network, and owns fetch/T of
// the state: the cached manifest, status.json, trust.json and the spool. Each bundle in the
// spool has the manifest as published, the metadata that signs it, if there is any, the
// archive or the deltas that replace it, and a receipt. The fetcher obeys the order that
// root wrote for the attempt. It reads, but never writes, the swapper's status.
//
// Trust: in the mode "checksum" the manifest gives sha256 and size of the archive, and the
// transport authenticates the manifest. That detects corruption and a changed archive, but
// an attacker who controls the manifest's host controls the release. [target.Dirs.Load]
// refuses a transport that anyone on the path can change, and no redirect leads from a
// better transport to a worse one.
//
// In the mode "tuf" the transport is not trusted. The fetcher downloads the metadata with
// the manifest and checks it, with a state of its own, so that it notices expired
// signatures and a repository that no longer changes even if there is nothing to install.
// The other roles do not rely on that; they check again. [Look] reads that state and does
// not change it.
//
// All that a server sends is limited in size and in time.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/fetch/source"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// Again is the exit status of a fetcher that systemd is to restart in a minute
// (EX_TEMPFAIL of sysexits.h). Restart= in its unit uses the same number.
const Again = 75

// Run carries out the order for a target, and records the result before it returns. The
// exit status is that of the result, 0 for one that was handed on, or [Again]. The error
// is a failure to record the result; every other failure is in the attempt's Result and
// Reason. report gets the numbers of the archive's bytes, at most ten times a second.
func Run(ctx context.Context, tree state.Tree, dirs target.Dirs, name string, report func(done, total int64)) (state.Attempt, int, error) {
	f, err := newFetcher(tree, name, report)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	return f.carryOut(ctx, dirs.Load)
}

// Full carries out the order once more, without deltas, if the verifier asks for that.
// Otherwise it does nothing and returns an attempt without ID. It also does nothing if
// this attempt already downloaded the archive, so an attempt cannot loop.
func Full(ctx context.Context, tree state.Tree, dirs target.Dirs, name string, report func(done, total int64)) (state.Attempt, int, error) {
	asked, err := tree.Fallback(name)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	f, err := newFetcher(tree, name, report)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	known, err := tree.Status(state.RoleFetch, name)
	if err != nil {
		return state.Attempt{}, state.ResultFailed.Exit(), err
	}
	var last state.Attempt
	if n := len(known.Attempts); n > 0 {
		last = known.Attempts[n-1]
	}
	if asked == nil || asked.Attempt != f.order.Attempt || last.ID != asked.Attempt || last.Result != state.ResultHandedOn || last.NoDelta != "" {
		return state.Attempt{}, 0, nil
	}
	f.full, f.noDelta = asked, asked.Reason
	return f.carryOut(ctx, dirs.Load)
}

// newFetcher reads the order and returns a fetcher that carries it out.
func newFetcher(tree state.Tree, name string, report func(done, total int64)) (*fetcher, error) {
	order, err := tree.Order(name)
	if err == nil && !order.Attempt.Valid() {
		err = fmt.Errorf("cannot fetch %s: the order's attempt is no ID", name)
	}
	return &fetcher{tree: tree, name: name, order: order, report: report, limits: download.DefaultLimits, rootOnly: target.CheckRootOnly, machineID: rollout.MachineIDFile}, err
}

func (f *fetcher) carryOut(ctx context.Context, load func(name string) (*target.Target, error)) (a state.Attempt, exit int, err error) {
	if err := f.tree.Tidy(state.RoleFetch, f.name); err != nil {
		return state.Attempt{Result: state.ResultFailed}, state.ResultFailed.Exit(), err
	}
	t, err := load(f.name)
	if err != nil {
		a, err = f.recordAttempt(failed(nil, state.Fail(state.ResultMisconfigured, "%w", err)))
	} else {
		a, err = f.run(ctx, t)
	}
	switch {
	case err != nil:
		return a, state.ResultFailed.Exit(), err
	case a.Result == state.ResultHandedOn:
		return a, 0, nil
	case a.Result == state.ResultNotDownloaded && f.order.Booted && a.RetryAfter.IsZero():
		return a, Again, nil
	}
	return a, a.Result.Exit(), nil
}

// Look is a check for a user who may not start the chain. It returns the result that an
// operator's check would have with this version installed ("" if unknown), but uses no
// cache and stores nothing.
func Look(ctx context.Context, tree state.Tree, t *target.Target, installed string) state.Attempt {
	f := fetcher{tree: tree, name: t.Name, limits: download.DefaultLimits, rootOnly: target.CheckRootOnly, machineID: rollout.MachineIDFile,
		order: state.Order{Origin: state.OriginOperator, Verb: state.VerbCheck, Installed: installed}}
	a := f.ended(f.fetch(ctx, t, ""))
	a.Reason, a.Cause = cmp.Or(a.Cause, a.Reason), "" // no other user reads this
	return a
}

type fetcher struct {
	tree     state.Tree
	name     string
	order    state.Order
	report   func(done, total int64)
	limits   download.Limits
	rootOnly func(path string) error
	// machineID is the path of the file with the machine's ID.
	machineID string
	digest    string            // of the files that the release would install; "" if its manifest does not list them
	full      *state.Fallback   // the verifier's request for the archive instead of deltas, or nil
	noDelta   string            // why the deltas were not used; "" if they had no fault
	unit      *state.File       // the unit's own file in the release; nil if its manifest does not list it
	list      string            // the installed release's own list of files; "" if it is not known
	leftOut   map[string]string // as [state.Offer] has it
	inside    string            // as [state.Offer] has it
	previous  *state.Release    // the kept one; nil if there is none
	keeps     bool              // whether the operator wants it kept
	fleet     target.FleetLock  // the lock that the attempt needs
	asked     time.Time         // when it asked for that; zero if it did not
	deferred  *state.Deferral   // what it was told; nil if it got the lock
	warning   string            // of the source, for the operator; "" for none
	aside     bool              // whether the release does not come from the target's source, which has its own
}

// outcome is what an attempt came to.
type outcome struct {
	release *source.Release // nil until a manifest for this target and machine was read
	result  state.Result
	reason  string // "" if the result says all
	err     error  // the failure that ended the attempt; nil if something else did
}

// failed returns the outcome of an attempt that err ended.
func failed(r *source.Release, err error) outcome {
	return outcome{r, state.ResultOf(err), err.Error(), err}
}

func (f *fetcher) run(ctx context.Context, t *target.Target) (state.Attempt, error) {
	o := f.fetch(ctx, t, f.tree.Dir(state.RoleFetch, f.name))
	a, err := f.recordAttempt(o)
	return a, errors.Join(err, f.forget(o))
}

// forget removes a stored piece if the attempt has shown that the rest will not be needed.
func (f *fetcher) forget(o outcome) error {
	dir := f.tree.Dir(state.RoleFetch, f.name)
	a, ok := download.ReadAbout(dir)
	if ok && (o.release == nil || a.Of(o.release.Platform) && o.result != state.ResultCurrent) {
		return nil
	}
	return download.Drop(dir)
}

// fetch takes the attempt as far as this role can. cache is as for [source.New].
func (f *fetcher) fetch(ctx context.Context, t *target.Target, cache string) outcome {
	known, err := f.known(t)
	if err != nil {
		return failed(nil, err)
	}
	if t.Source.From != nil && !f.order.Brought() {
		if s := known.Status.Source; s == nil || s.From != t.Source.From.String() {
			return failed(nil, state.Fail(state.ResultNotAttempted, "no source is known yet (hint: sudo machinemon-update check %s finds it)", t.Name))
		} else if err := t.Derive(s.URL, s.InsecureSkipTLS); err != nil {
			return failed(nil, state.Fail(state.ResultMisconfigured, "%w", err))
		}
	}
	f.aside = f.order.Brought() && t.Source.Type != ""
	src, err := f.source(t, cache)
	if err != nil {
		return failed(nil, err)
	}
	if r := known.Status.Installed; r != nil {
		f.list = r.List
	}
	f.previous, f.keeps, f.fleet = known.Status.Previous, t.KeepPrevious, t.FleetLock
	if d := policy.Decide(known); d.Refused() {
		return outcome{result: d.Result, reason: d.String()}
	}
	r, err := f.resolve(ctx, src, t, cache != "")
	if w, ok := src.(source.Warner); ok {
		f.warning = w.Warning()
	}
	if err != nil {
		return failed(nil, err)
	}
	f.digest, f.unit = installs(t, r)
	f.leftOut = t.LeftOutOf(f.list, r.Platform.Contents, r.Key, r.Manifest.Version)
	f.inside = t.InsideOf(r.Platform)
	known.Release = &policy.Release{Version: r.Manifest.Version, Sequence: r.Manifest.Sequence, Disabled: r.Manifest.Disabled,
		NotYet: f.notYet(r.Manifest), Manifest: manifest.Digest(r.Raw), Archive: r.Platform.SHA256, Fingerprint: f.digest}
	known.Now = time.Now().UTC()
	if d := policy.Decide(known); d.Rule == policy.RuleOnlyCheck && cache != "" && f.unseen() {
		return f.handOnToSee(ctx, src, t, r, d)
	} else if d.Refused() {
		return outcome{release: r, result: d.Result, reason: d.String()}
	}
	how, err := f.handOn(ctx, src, t, r)
	if d, deferred := errors.AsType[*deferredError](err); deferred {
		return outcome{release: r, result: state.ResultAvailable, reason: d.Error()}
	}
	if err != nil {
		return failed(r, err)
	}
	return outcome{release: r, result: state.ResultHandedOn, reason: how}
}

// source returns where this attempt's release comes from: what the operator named, or else
// the target's source.
func (f *fetcher) source(t *target.Target, cache string) (source.Source, error) {
	switch {
	case f.order.Import:
		return &source.Disk{Path: f.tree.Import(f.name), RootOnly: f.rootOnly}, nil
	case f.order.URL != "":
		address, err := f.tree.Address(f.name, f.order)
		if err != nil {
			return nil, err
		}
		return source.NewDirect(t, address, f.order.SHA256, f.order.Version, f.limits)
	}
	return source.New(t, cache, f.limits, f.rootOnly)
}

// known returns what the policy needs to know before the source is asked.
func (f *fetcher) known(t *target.Target) (policy.Known, error) {
	st, err := f.tree.Status(state.RoleSwap, f.name)
	k := policy.Known{Rules: t.Rules(), Order: f.order, Status: st, Now: time.Now().UTC()}
	if err == nil && f.order.Origin != state.OriginOperator { // an operator's attempt never backs off
		k.History, err = f.tree.History(f.name)
	}
	return k, err
}

// ended returns the attempt's record.
func (f *fetcher) ended(o outcome) state.Attempt {
	a := state.Attempt{
		ID: f.order.Attempt, Time: time.Now().UTC(), Origin: f.order.Origin, From: f.order.Installed,
		Stage: string(state.RoleFetch), Result: o.result, Reason: o.reason, Warning: f.warning, NoDelta: state.Line(f.noDelta), Expired: trust.Expired(o.err),
	}
	if v, ok := errors.AsType[*download.Veiled](o.err); ok {
		a.Cause = v.Cause.Error()
	}
	if l, ok := errors.AsType[*download.RateLimit](o.err); ok {
		a.RetryAfter = l.Until
	}
	if n, ok := errors.AsType[*noRoom](o.err); ok {
		a.Needs = n.needs
	}
	if r := o.release; r != nil {
		a.Version, a.Sequence, a.Manifest = r.Manifest.Version, r.Manifest.Sequence, manifest.Digest(r.Raw)
	}
	return a
}

// recordAttempt records how the attempt ended. Without a usable manifest, the offer of an
// earlier check stays; a disabled release removes it. What the operator names by import is
// no offer of the source, from which apply and scheduled runs would not get it.
func (f *fetcher) recordAttempt(o outcome) (state.Attempt, error) {
	a := f.ended(o)
	return a, f.tree.Update(state.RoleFetch, f.name, func(s *state.Status) {
		if r := o.release; r != nil && !f.aside {
			s.Offer = nil
			if !r.Manifest.Disabled {
				s.Offer = &state.Offer{LeftOut: f.leftOut, Inside: f.inside, Version: a.Version, Sequence: a.Sequence, Checked: a.Time, Unsigned: r.Metadata == nil, Signed: r.Signed,
					Fingerprint: f.digest, Archive: r.Platform.SHA256, Earlier: earlier(r.Platform), Unit: f.unit, NotYet: f.notYet(r.Manifest)}
			}
		}
		if !f.asked.IsZero() {
			s.Deferred = f.deferred
		}
		s.Record(a)
	})
}
