package swap

import (
	"context"
	"errors"

	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Directive acts on the directives that were dropped for a target. It discards them
// unread and asks for an attempt, which may do no more than a scheduled one. While
// another attempt is under way one directive stays, because that attempt may have looked
// already; this unit runs again in a minute.
//
// If this process is killed, or systemd does not answer, after the last entry was
// discarded, the directive is lost. The server sends it again at the next check-in.
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

// listen starts the path unit for directives if it is dead, unless the operator masked
// it. It only logs an error, because an attempt does not need that unit.
func (s *Swapper) listen(ctx context.Context, name string) {
	all, err := s.Systemd.Units(ctx, pathOf("directive", name))
	if err == nil && all[0].Load == "loaded" && all[0].Active != "active" {
		err = s.revive(ctx, name, "directive", all[0])
	}
	if err != nil {
		s.logf("%s: nothing watches for directives: %v", name, err)
	}
}
