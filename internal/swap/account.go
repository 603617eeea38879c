package swap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// MakeAccounts makes the accounts of a target's steps. They are no dynamic users of
// systemd: the fetcher and the verifier have files that outlive their units and that
// others read, and D-Bus refuses the gate's if it cannot look up a dynamic user.
func (s *Swapper) MakeAccounts(ctx context.Context, name string) error {
	if !target.ValidName(name) {
		return state.Fail(state.ResultMisconfigured, "cannot make accounts for %q: that is no name for a target", name)
	}
	cmd := exec.CommandContext(ctx, "/usr/bin/systemd-sysusers", "--inline",
		account("fetch", name, "downloads"), account("verify", name, "verification"),
		account("gate", name, "health probes"), account("command", name, "probe commands"),
		account("notify", name, "notification"))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the accounts of %s: systemd-sysusers: %w: %s", name, err, state.Line(string(said)))
	}
	_, gid, err := idsOf(target.Account("notify", name))
	if err != nil {
		return fmt.Errorf("cannot use the account of %s: %w", name, err)
	}
	return errors.Join(s.handOver(name), s.Tree.MakeNotices(name, gid))
}

// deepest is the depth of the fetcher's deepest file: ready/ATTEMPT/FILE.
const deepest = 2

// handOver gives the fetcher's files to its account. Earlier versions had one account for
// all targets. systemd would do it too late: when the fetcher starts again, and not when
// the verifier reads a bundle that was fetched before the upgrade.
func (s *Swapper) handOver(name string) error {
	owner := target.Account("fetch", name)
	uid, gid, err := idsOf(owner)
	if err != nil {
		return fmt.Errorf("cannot use the account of %s: %w", name, err)
	}
	dir := s.Tree.Dir(state.RoleFetch, name)
	if err := giveTree(dir, uid, gid); err != nil {
		return fmt.Errorf("cannot give %s to %s: %w", dir, owner, durable.Cause(err))
	}
	return nil
}

// idsOf returns the numbers of an account and of its group.
func idsOf(account string) (uid, gid int, err error) {
	who, err := user.Lookup(account)
	if err != nil {
		return 0, 0, err
	}
	uid, uerr := strconv.Atoi(who.Uid)
	gid, gerr := strconv.Atoi(who.Gid)
	return uid, gid, errors.Join(uerr, gerr)
}

// giveTree gives a directory and what its owner has in it to another owner. Other users'
// files are left alone: the old owner may have made hard links to them.
func giveTree(dir string, uid, gid int) error {
	i, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && uidOf(i) == uid {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var paths []string
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Count(path, "/") > deepest {
			return fs.SkipDir // foreign, so begin removes it
		}
		info, err := e.Info()
		if err == nil && uidOf(info) == uidOf(i) {
			paths = append(paths, path)
		}
		return err
	})
	// The directory itself comes last, so that a run that was killed is repeated.
	for _, path := range slices.Backward(paths) {
		if err == nil {
			err = root.Lchown(path, uid, gid)
		}
	}
	return err
}

func uidOf(i fs.FileInfo) int { return int(i.Sys().(*syscall.Stat_t).Uid) }

// account returns a line of sysusers.d(5).
func account(step, name, does string) string {
	return fmt.Sprintf("u %s - \"machinemon-update %s of %s\" /nonexistent", target.Account(step, name), does, name)
}

// knowAccount makes sure that systemd runs the fetcher of a target as the account of that
// target: after a new target file systemd must be reloaded.
func (b *beginning) knowAccount(ctx context.Context) error {
	u, err := b.Systemd.Unit(ctx, unitOf("fetch", b.name))
	if err != nil || u.User == target.Account("fetch", b.name) {
		return err
	}
	b.logf("%s: the target file is new: reloading systemd", b.name)
	if err := b.Systemd.Reload(ctx); err != nil {
		return err
	}
	return b.Systemd.Start(ctx, unitOf("accounts", b.name))
}
