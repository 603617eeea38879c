package release

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// A plan is written before the manifest that belongs to it. If their percentages differ, a
// publisher was killed in between, and the next advance publishes the plan's.
//
// In a signed directory, Start signs the manifest of each step, and one for 0 percent, with
// the targets key. Their metadata have higher versions than what is published, the one for
// 0 percent the highest. So a step needs only the online key, by which snapshot and
// timestamp name the next version. A thief of that key could skip steps of a release, but
// not publish another one.

// StartRequest begins a rollout by plan.
type StartRequest struct {
	Dir         string
	Keys        Keys
	Steps       []int // percent
	After       time.Duration
	MaxFailures int // percent
	Now         time.Time
}

// Start offers the newest release to the machines of the first step, and leaves a plan for
// the next ones to Advance. It replaces an earlier plan.
func Start(q StartRequest) (_ *rollout.Plan, err error) {
	defer named(&err, "plan the rollout in "+q.Dir)
	if err := rollout.CheckSteps(q.Steps); err != nil {
		return nil, err
	}
	e, err := beginEdit(q.Dir, q.Keys.publishing)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	m, err := e.released()
	if err != nil {
		return nil, err
	}
	if m.Disabled {
		return nil, errors.New("the release is disabled (hint: machinemon-release set --disabled=false)")
	}
	if e.signed != nil && time.Duration(len(q.Steps))*q.After >= targetsExpiry {
		return nil, fmt.Errorf("it would take %d times %s, and the signature of the release expires after %d days", len(q.Steps), q.After, targetsExpiry/day)
	}
	e.plan = rollout.New(m, q.Steps, q.After, q.MaxFailures, q.Now)
	files, err := e.files(rollout.At(m, e.plan.Percent), q.Now)
	if err == nil {
		err = e.write(files)
	}
	return e.plan, err
}

// Advance begins the next step of the plan if it is due and counts, the gate's answer,
// allows it; it stops the rollout at 0 percent if the release fails too often. It returns
// the state after that, with nil for a directory without a plan, and what has changed.
func Advance(dir string, k Keys, counts func(*rollout.Plan) (rollout.Counts, error), now time.Time) (s *rollout.State, moved rollout.Move, err error) {
	defer named(&err, "go on with the rollout in "+dir)
	e, err := beginEdit(dir, k.refreshing)
	if err != nil {
		return nil, rollout.Stay, err
	}
	defer e.Close()
	m, err := e.released()
	if err != nil || !e.plan.Of(m) {
		return nil, rollout.Stay, err
	}
	p := e.plan
	if rollout.Percent(m) != p.Percent {
		if err := e.take(m, now); err != nil {
			return nil, rollout.Stay, err
		}
	}
	if p.Over() {
		state := p.State(rollout.Counts{}, now)
		return &state, rollout.Stay, nil
	}
	c, err := counts(p)
	if err != nil {
		return nil, rollout.Stay, err
	}
	state := p.State(c, now)
	if moved = state.Move(now); moved == rollout.Stay {
		return &state, moved, nil
	}
	p.Move(moved, state, now)
	text, err := p.Marshal()
	if err == nil {
		err = e.replace(rollout.FileName, text)
	}
	if err == nil && moved != rollout.Finish {
		err = e.take(m, now)
	}
	if err != nil {
		return nil, rollout.Stay, err
	}
	state = p.State(c, now)
	return &state, moved, nil
}

// released returns the newest release.
func (e *edit) released() (*manifest.Manifest, error) {
	m, err := e.newest()
	if err == nil && m == nil {
		err = errors.New("there is none (hint: machinemon-release publish)")
	}
	return m, err
}

// take publishes the plan's current step.
func (e *edit) take(m *manifest.Manifest, now time.Time) error {
	if e.signed == nil {
		text, err := marshal(rollout.At(m, e.plan.Percent))
		if err != nil {
			return err
		}
		return e.write([]file{{manifest.FileName, text}})
	}
	next, err := e.signed.load(e.plan.Signed[e.plan.Percent])
	if err != nil {
		return err
	}
	files, err := e.signed.publish(next, e.keys, now)
	if err != nil {
		return err
	}
	return e.write(files)
}

// load reads a release that was signed, but not published. publish verifies it.
func (r *signedDir) load(version int64) (*release, error) {
	get := filesOf(r.path)
	b, err := get(targetsFile(version), 0)
	if err != nil {
		return nil, err
	}
	l := &release{signed: b}
	name, _, err := trust.Next(trust.RoleTargets, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", targetsFile(version), err)
	}
	if l.targets, err = metadata.Targets().FromBytes(b); err != nil {
		return nil, fmt.Errorf("%s: %w", targetsFile(version), err)
	}
	l.manifest, err = get(name, 0)
	return l, err
}

// signSteps signs the steps of the plan that are to come. It returns their files, and the
// plan's after them.
func (e *edit) signSteps(m *manifest.Manifest, now time.Time) (files []file, err error) {
	if e.plan == nil {
		return nil, nil
	}
	p := e.plan
	p.Signed = map[int]int64{p.Percent: e.last}
	for _, percent := range slices.Concat(p.Steps, []int{0}) {
		if percent <= p.Percent && percent != 0 || p.Over() {
			continue
		}
		text, err := marshal(rollout.At(m, percent))
		if err != nil {
			return nil, err
		}
		step, err := e.sign(text, now)
		if err != nil {
			return nil, err
		}
		p.Signed[percent] = e.last
		files = append(files, step.files()...)
	}
	return files, nil
}
