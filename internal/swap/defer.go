package swap

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/policy"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
)

// maxSaid is how many characters of what somebody said are kept.
const maxSaid = 200

// orDeferred returns the policy's decision, after it has asked this machine whether an
// attempt that nothing else refuses may install now. It records the answer, which status
// shows.
func (s *Swapper) orDeferred(ctx context.Context, k policy.Known, t *target.Target) (policy.Decision, error) {
	d := policy.Decide(k)
	if d.Refused() || k.Order.Origin == state.OriginOperator || k.Order.Verb == state.VerbCheck {
		return d, nil
	}
	reason := s.inhibitor(ctx, t)
	if reason == "" {
		reason = s.inhibited(ctx, t)
	}
	reason = state.Line(reason)
	if reason == "" && k.Status.Deferred == nil {
		return d, nil
	}
	var answer *state.Deferral
	if reason != "" {
		k.Deferred, answer = &state.Deferral{Reason: reason}, &state.Deferral{Reason: reason, Asked: time.Now().UTC()}
	}
	err := s.Tree.Update(state.RoleSwap, t.Name, func(st *state.Status) { st.Deferred = answer })
	return policy.Decide(k), err
}

// inhibitor returns which lock of logind keeps the machine from shutting down, if the
// target heeds these; "" for none.
func (s *Swapper) inhibitor(ctx context.Context, t *target.Target) string {
	if !t.ShutdownInhibitors {
		return ""
	}
	locks, err := s.Systemd.Inhibitors(ctx)
	if err != nil {
		return err.Error()
	}
	if len(locks) == 0 {
		return ""
	}
	first := locks[0]
	who := fmt.Sprintf("%s (process %d) keeps the machine from shutting down", short(first.Who), first.PID)
	if first.Why != "" {
		who += ": " + short(first.Why)
	}
	return who
}

// inhibited asks the target's command whether an update may begin now. It returns why not,
// or "". A command that does not answer says no: it may be there to protect something.
func (s *Swapper) inhibited(ctx context.Context, t *target.Target) string {
	if len(t.Inhibit) == 0 {
		return ""
	}
	program := t.Inhibit[0]
	r, err := s.Systemd.Try(ctx, systemd.Sandbox{
		Unit:        unitOf("inhibit", t.Name),
		Description: "Ask whether " + t.Name + " may be updated now",
		Argv:        t.Inhibit,
		User:        target.Account("command", t.Name),
		Output:      filepath.Join(s.Tree.Run, "attempt", t.Name+".inhibit"),
		Look:        true,
	})
	switch {
	case err != nil:
		return fmt.Sprintf("cannot ask %s: %v", program, err)
	case r.Exec || r.Signal || r.Late:
		return fmt.Sprintf("%s does not answer: %s", program, r.Detail)
	case r.Detail == "":
		return ""
	}
	for line := range strings.Lines(r.Output) {
		if line = plainLine(line); line != "" {
			return program + " says no: " + short(line)
		}
	}
	return program + " says no"
}

// short makes one short line of what somebody said.
func short(said string) string {
	if runes := []rune(said); len(runes) > maxSaid {
		said = string(runes[:maxSaid]) + "…"
	}
	return state.Line(said)
}
