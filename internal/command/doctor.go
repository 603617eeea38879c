package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/state"
)

// diagnosis is the JSON of doctor.
type diagnosis struct {
	Machine []finding   `json:"machine"`
	Targets []diagnosed `json:"targets"`
}

type diagnosed struct {
	Target   string    `json:"target"`
	Findings []finding `json:"findings"`
}

// finding is one line of doctor.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"` // levelOK, levelWarn or levelBad
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"` // the cure
}

// The levels of findings. levelBad keeps the target from its next update, or from a
// verdict about it; levelWarn may.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelBad  = "bad"
)

// found makes a finding. A hint at the end of detail, as errors have it, becomes its cure.
func found(level, check, detail string) finding {
	f := finding{Check: check, Level: level, Detail: detail}
	const mark = " (hint: "
	if i := strings.LastIndex(detail, mark); i >= 0 && strings.HasSuffix(detail, ")") {
		f.Detail, f.Hint = detail[:i], strings.TrimSuffix(detail[i+len(mark):], ")")
	}
	return f
}

func (f finding) with(hint string) finding {
	f.Hint = hint
	return f
}

func (f finding) String() string {
	s := fmt.Sprintf("%-4s  %s: %s", f.Level, f.Check, f.Detail)
	if f.Hint != "" {
		s += " (hint: " + f.Hint + ")"
	}
	return s
}

// doctor examines the machine and the targets for what could keep an update from them.
func (a *app) doctor(args []string) error {
	names, err := a.choose(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := a.see(ctx)
	if m != nil {
		defer m.Close()
	}
	d := diagnosis{Machine: a.examineMachine(m), Targets: []diagnosed{}}
	text := a.report("this machine", d.Machine)
	if len(names) == 0 {
		text += a.noTargets()
	}
	for _, name := range names {
		e := examination{app: a, machine: m, name: name}
		e.run(ctx)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		d.Targets = append(d.Targets, diagnosed{name, e.findings})
		text += a.report(name, e.findings)
	}
	return a.print(d, text)
}

// report returns findings as text, and keeps the exit status that they mean.
func (a *app) report(about string, findings []finding) string {
	text := state.Printable(about) + "\n"
	for _, f := range findings {
		text += "  " + state.Printable(f.String()) + "\n"
		if f.Level == levelBad {
			a.worst(state.ResultFailed.Exit())
		}
	}
	return text
}
