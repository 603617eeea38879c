package swap

import (
	"context"
	"errors"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Directive answers what was dropped for a target: it is discarded unread, and
// an attempt is asked for, which may do no more than the schedule's. While
// another is under way one directive stays, for that one may have looked already;
// the unit comes back in a minute.
//
// Killed, or left without systemd's answer, after the last entry was discarded, it
// loses the directive. The server says it again at the next check-in.
func (s *Swapper) Directive(ctx context.Context, name string) error {
	if !target.ValidName(name) {
		return state.Fail(state.ResultMisconfigured, "cannot answer directives to %q: that is no name for a target", name)
	}
	n, err := s.Tree.ConsumeDirectives(name)
	if n == 0 {
		return err
	}
	return errors.Join(err, s.ask(ctx, name, n))
}

func (s *Swapper) ask(ctx context.Context, name string, n int) error {
	busy, err := s.underWay(ctx, name, append([]string{"fetch"}, workers...))
	if err != nil {
		return err
	}
	if busy != nil {
		s.logf("%s: directive (%d entries discarded): later, as %s is %s", name, n, busy.Name, busy.Active)
		_, err := s.Tree.DropDirective(name)
		return err
	}
	s.logf("%s: directive (%d entries discarded): asking for an attempt", name, n)
	if err := s.Tree.AskByDirective(name); err != nil {
		return err
	}
	return s.Systemd.Queue(ctx, unitOf("fetch", name))
}

// listen starts the path unit for directives again where it is dead. One that
// the operator masked stays so. Whatever goes wrong, an attempt does not need it.
func (s *Swapper) listen(ctx context.Context, name string) {
	u, err := s.Systemd.Unit(ctx, pathOf("directive", name))
	if err == nil && u.Load == "loaded" && u.Active != "active" {
		err = s.revive(ctx, name, "directive", u)
	}
	if err != nil {
		s.logf("%s: nothing watches for directives: %v", name, err)
	}
}
