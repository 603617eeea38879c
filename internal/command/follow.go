package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// steps are the chain's services, and what a person calls their work.
var steps = []struct{ unit, word string }{
	{"fetch", "fetching"}, {"verify", "verifying"}, {"baseline", ""}, {"swap", "swapping"},
	{"health-gate", "watching"}, {"commit", "committing"}, {"rollback", "rolling back"},
}

// follower watches one attempt through the chain. The roles' records are the
// truth; the units only tell when to read them, and that somebody died.
type follower struct {
	*app
	conn    *systemd.Conn
	name    string
	attempt string
	said    string
	bar     *progressbar.ProgressBar
}

func (f *follower) units() []string {
	var names []string
	for _, s := range steps {
		names = append(names, unit(s.unit, f.name))
	}
	return append(names, path("verify", f.name), path("swap", f.name))
}

func (f *follower) follow(ctx context.Context) (state.Attempt, error) {
	defer f.endBar()
	for {
		at, over, err := f.recorded()
		if over || err != nil {
			return at, err
		}
		units, err := f.read(ctx)
		if err != nil {
			return at, err
		}
		idle, err := f.idle(units)
		if err != nil {
			return at, err
		}
		if idle {
			// Whoever ended between the two looks has recorded its end before.
			if at, over, err := f.recorded(); over || err != nil {
				return at, err
			}
			return f.orphan(units), nil
		}
		f.show(units)
		select {
		case <-f.conn.Changes():
		case <-ctx.Done():
			return at, context.Cause(ctx)
		}
	}
}

// recorded looks for the end of the attempt in the roles' records.
func (f *follower) recorded() (state.Attempt, bool, error) {
	all, err := f.tree.History(f.name)
	i := slices.IndexFunc(all, func(a state.Attempt) bool { return a.ID == f.attempt })
	if i < 0 {
		return state.Attempt{ID: f.attempt}, false, err
	}
	return all[i], all[i].Result != state.HandedOn, err
}

func (f *follower) read(ctx context.Context) ([]systemd.Unit, error) {
	var units []systemd.Unit
	for _, name := range f.units() {
		u, err := f.conn.Unit(ctx, name)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	return units, nil
}

// idle tells whether nobody works on the target, and nothing that was handed on
// will start anybody.
func (f *follower) idle(units []systemd.Unit) (bool, error) {
	dead := map[string]bool{}
	for _, u := range units {
		if strings.HasSuffix(u.Name, ".path") {
			dead[u.Name] = u.Active != "active"
		} else if !u.Settled() {
			return false, nil
		}
	}
	for role, step := range map[state.Role]string{state.Fetch: "verify", state.Verify: "swap"} {
		pending, err := f.tree.Pending(role, f.name)
		if err != nil || pending && !dead[path(step, f.name)] {
			return false, err
		}
	}
	// An open trial has a gate, a verdict's unit or a deadline; each of them
	// ends in a record.
	j, err := f.tree.Journal(f.name)
	return j == nil, err
}

// orphan is the end of an attempt whose worker died without a record.
func (f *follower) orphan(units []systemd.Unit) state.Attempt {
	at := state.Attempt{ID: f.attempt, Origin: state.Operator, Time: time.Now().UTC(), Result: state.Failed}
	reason := errors.New("the chain stopped without a word")
	for _, u := range units {
		if u.Active == "failed" {
			reason = fmt.Errorf("%s failed (%s): %s", u.Name, u.Result, u)
		}
	}
	at.Reason = fmt.Sprintf("%v; nothing was changed (hint: journalctl -u 'machinemon-*@%s.service')", reason, f.name)
	return at
}

// show tells a person what goes on: a bar for the download on a terminal, a
// line for each step otherwise.
func (f *follower) show(units []systemd.Unit) {
	if f.json {
		return
	}
	for i, s := range steps {
		u := units[i]
		if s.word == "" || u.Active != "activating" {
			continue
		}
		if done, total, ok := systemd.ParseProgress(u.Status); ok && f.terminal {
			f.draw(done, total)
			continue
		}
		line := f.name + ": " + s.word
		if f.terminal && u.Status != "" && s.unit != "fetch" {
			line += ": " + u.Status
		}
		if line != f.said {
			f.endBar()
			f.said = line
			fmt.Fprintln(f.err, clean(line))
		}
	}
}

func (f *follower) draw(done, total int64) {
	if f.bar == nil {
		f.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(f.err),
			progressbar.OptionSetDescription(f.name+": downloading"), progressbar.OptionShowBytes(true),
			progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
	}
	_ = f.bar.Set64(min(done, total)) // only a terminal that went away fails
}

func (f *follower) endBar() {
	if f.bar != nil {
		_ = f.bar.Clear()
		f.bar = nil
	}
}
