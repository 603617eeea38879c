package command

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/machinemon/machinemon-update/internal/dirtree"
	"github.com/machinemon/machinemon-update/internal/state"
)

// probes makes the gate try the probes, as probe does.
func (e *examination) probes(ctx context.Context) {
	switch {
	case e.machine == nil || e.open:
		return
	case !e.root:
		e.add(found(levelWarn, "probes", "not tried: only root may").with("sudo machinemon-update doctor " + e.name))
		return
	}
	now, known, err := e.probing(ctx, e.target)
	if err != nil {
		level := levelBad
		if state.ResultOf(err) == state.ResultNotAttempted {
			level = levelWarn
		}
		e.add(found(level, "probes", err.Error()))
		return
	}
	for _, f := range health(probedOf(e.target, now, known), e.targets.Admin) {
		e.add(f)
	}
}

// health returns the findings about what the gate saw.
func health(p probed, admin string) (findings []finding) {
	names := strings.Join(p.units, ", ")
	switch {
	case len(p.units) == 0:
		findings = append(findings, found(levelOK, "health", "no unit runs it: its version_command decides"))
	case p.Standing && len(p.Probes) == 0:
		findings = append(findings, found(levelOK, "health", names+" stands, and there are no probes: how it stands is all that decides"))
	case p.Standing:
		findings = append(findings, found(levelOK, "health", names+" stands"))
	default:
		f := found(levelBad, "health", names+" is not as it must be: "+p.Detail)
		if f.Hint == "" {
			f.Hint = p.hint
		}
		if f.Hint == "" {
			f.Hint = "systemctl status " + strings.Join(p.units, " ")
		}
		findings = append(findings, f)
	}
	for _, r := range p.Probes {
		says := fmt.Sprintf("%s: %s (%d ms)", r.Probe, r.Detail, r.Millis)
		mend := fmt.Sprintf("mend it, or remove it, in %s/%s.toml", admin, p.Target)
		switch {
		case r.Detail == state.NotTried:
			findings = append(findings, found(levelWarn, "probe", r.Probe+": "+state.NotTried))
		case r.Passed:
			findings = append(findings, found(levelOK, "probe", says))
		case r.LastPassed == nil:
			findings = append(findings, found(levelBad, "probe", says+"; it never passed here, so it is not believed").with(mend))
		default:
			findings = append(findings, found(levelBad, "probe", says+"; it last passed here at "+r.LastPassed.Local().Format(minutes)+", and an update must make it pass").
				with("mend the program, or the probe in "+admin+"/"+p.Target+".toml"))
		}
	}
	return findings
}

// room examines whether an update of the present size fits: the new files beside the old
// ones, and archive and unpacked files in the directories of the chain.
func (e *examination) room(context.Context) {
	disks, all := state.Disks{}, int64(0)
	need := func(dir string, size int64) {
		if d, err := disks.On(dir); err == nil { // of a directory that is missing, files has said so
			d.Need += size
		}
	}
	for _, i := range e.target.Install {
		size := dirtree.Size(i.To)
		all += size
		need(filepath.Dir(i.To), size)
	}
	need(e.tree.Var, 2*all)
	for _, d := range disks {
		free, err := state.Free(d.Dir)
		if err != nil {
			e.fails("disk", err)
			continue
		}
		e.add(space(d, free))
	}
}

func space(d *state.Disk, free int64) finding {
	says := fmt.Sprintf("%.1f MB are free on the disk of %s", float64(free)/1e6, d.Dir)
	if d.Need == 0 {
		return found(levelOK, "disk", says)
	}
	says += fmt.Sprintf(", and an update of the present size needs %.1f MB there", float64(d.Need)/1e6)
	switch {
	case free < d.Need:
		return found(levelBad, "disk", says).with("df shows what is full")
	case free < 2*d.Need:
		return found(levelWarn, "disk", says).with("df shows what is full")
	}
	return found(levelOK, "disk", says)
}
