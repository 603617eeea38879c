package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/log"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/systemd"
)

// maxNotice is how many bytes of a hook's notice are read.
const maxNotice = 1 << 10

// hookTime is the time limit of one hook. The units of the swap and of the commit allow
// for it.
const hookTime = 10 * time.Minute

// beforeSwap runs the release's program, if the operator allows that, and the operator's
// own hook before any file is replaced; in a drill neither, because there is no release to
// prepare for. From the moment that one may have run, a rollback
// restores the snapshot.
func (sw *swapping) beforeSwap(ctx context.Context) error {
	hooks := sw.target.Hooks
	var fromRelease []string
	if sw.program != "" {
		fromRelease = append([]string{sw.program}, hooks.FromRelease[1:]...)
	}
	if len(fromRelease) == 0 && len(hooks.PreSwap) == 0 || sw.journal.Drill {
		return nil
	}
	j := sw.journal
	staging := filepath.Join(sw.Tree.Run, "attempt", sw.name+".staging")
	defer os.RemoveAll(staging) // it holds links; if any stay, the next boot empties /run
	if err := show(j, staging); err != nil {
		return err
	}
	j.Hooked = true
	if err := sw.Tree.SetJournal(j); err != nil {
		return err
	}
	for _, h := range []struct {
		name string
		argv []string
	}{{"from_release", fromRelease}, {"pre_swap", hooks.PreSwap}} {
		if len(h.argv) == 0 {
			continue
		}
		if err := sw.hook(ctx, j, h.name, h.argv, "MACHINEMON_STAGING="+staging); err != nil {
			return state.Fail(state.ResultFailed, "the %s hook failed: %w (hint: journalctl -u %s)", h.name, err, hookOf(sw.name))
		}
	}
	return nil
}

// show makes a tree of links to the new files, each at the path of its destination.
func show(j *state.Journal, staging string) error {
	err := os.RemoveAll(staging)
	for _, c := range j.Changes {
		if err == nil && c.Kind == state.KindReplace {
			link := filepath.Join(staging, c.To)
			if err = os.MkdirAll(filepath.Dir(link), 0o700); err == nil {
				err = os.Symlink(c.Staged, link)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot show the new files to the hook: %w", err)
	}
	return nil
}

// postCommit runs the operator's hook after the verdict, which stands even if the hook
// fails. The hook runs only once, because after a crash it is unknown how far it came.
func (s *Swapper) postCommit(ctx context.Context, j *state.Journal) error {
	if len(j.PostCommit) == 0 {
		return nil
	}
	failure := errors.New("it was interrupted")
	if !j.PostHooked {
		j.PostHooked = true
		if err := s.Tree.SetJournal(j); err != nil {
			return err
		}
		failure = s.hook(ctx, j, "post_commit", j.PostCommit)
	}
	if failure != nil {
		hooked := fmt.Sprintf("the post_commit hook failed: %v (hint: journalctl -u %s)", failure, hookOf(j.Target))
		j.Reason = strings.TrimPrefix(j.Reason+"; "+hooked, "; ") // keep the reason why the release is unproven
		s.logf("%s: %s", describe(j), j.Reason)
	}
	return nil
}

func (s *Swapper) hook(ctx context.Context, j *state.Journal, name string, argv []string, more ...string) error {
	log.Status("running the " + name + " hook")
	s.logf("%s: running the %s hook", describe(j), name)
	notice := filepath.Join(s.Tree.Run, "attempt", j.Target+".notice")
	defer os.Remove(notice) // if it stays, the next hook or boot removes it
	if err := remove(notice); err != nil {
		return err
	}
	err := s.runHook(ctx, j, systemd.Hook{
		Unit:        hookOf(j.Target),
		Description: "The " + name + " hook of " + j.Target,
		Argv:        argv,
		Limit:       hookTime,
		Env: append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"MACHINEMON_TARGET=" + j.Target, "MACHINEMON_FROM=" + j.From, "MACHINEMON_VERSION=" + j.Version,
			"MACHINEMON_NOTICE=" + notice,
		}, more...),
	})
	if err == nil {
		s.heed(j, name, notice)
	}
	return err
}

// heed adds what a hook wrote for the operator to the attempt's warning.
func (s *Swapper) heed(j *state.Journal, hook, notice string) {
	b, err := durable.ReadFile(notice, maxNotice)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.logf("%s: cannot read the notice of the %s hook: %v", describe(j), hook, durable.Cause(err))
		return
	}
	if text := strings.Join(strings.Fields(string(b)), " "); text != "" {
		s.logf("%s: notice of the %s hook: %s", describe(j), hook, state.Line(text))
		j.Warn(text)
	}
}

func hookOf(name string) string { return unitOf("hook", name) }
