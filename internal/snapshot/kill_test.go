package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/testkit"
)

// killed runs a verb repeatedly until it ends by itself, kills each run after a random
// part of its duration, and calls look after each kill.
func killed(t *testing.T, uid uint32, whole time.Duration, look func(), args ...string) (times int) {
	t.Helper()
	for {
		cmd := command(uid, args...)
		must(t, cmd.Start())
		// Later runs get more time, so that one of them ends.
		limit := whole/20 + time.Duration(rand.Int64N(int64(whole)))*time.Duration(times+1)/10
		kill := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return times
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			times++
			look()
		default:
			t.Fatal(err)
		}
	}
}

// TestKilled: a restore that was killed at any time is finished by the next, and no rest
// remains.
func TestKilled(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := disk(t, kind)
			data, backup := dir+"/data", dir+"/backup"
			plant(t, dir)
			for i := range 200 {
				random(t, fmt.Sprintf("%s/many/%d/%d", data, i%7, i), 1000*i)
			}
			want := describe(t, data)
			save(t, data, backup)
			harmed := func() {
				for i := range 200 {
					path := fmt.Sprintf("%s/many/%d/%d", data, i%7, i)
					switch i % 3 {
					case 0:
						must(t, os.Remove(path))
					case 1:
						random(t, path, 200_000)
					}
					put(t, fmt.Sprintf("%s/new/%d/%d", data, i%7, i), "new")
				}
				exchange(t, data+"/a", func() { must(t, os.Symlink("/etc", data+"/a")) })
				exchange(t, data+"/empty", func() { put(t, data+"/empty/in/it", "x") })
				must(t, os.Chmod(data, 0o777))
			}
			harmed()
			begin := time.Now()
			must(t, command(0, "snapshot-restore", backup, data).Run())
			whole := time.Since(begin)
			n := 0
			for range 3 {
				harmed()
				n += killed(t, 0, whole, func() {}, "snapshot-restore", backup, data)
				equal(t, "restored", describe(t, data), want)
				restore(t, backup, data, false)
			}
			t.Logf("killed %d times", n)
			if n < 5 {
				t.Errorf("killed %d times only", n)
			}
		})
	}
}

// TestKilledFile: the same holds for a single file, which is at each time wholly the old
// one or wholly the new one.
func TestKilledFile(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	dir := t.TempDir()
	random(t, dir+"/db", 30<<20)
	put(t, dir+"/other", "x")
	want := describe(t, dir)
	save(t, dir+"/db", dir+"/backup")
	want["backup"] = want["db"]
	must(t, os.Chtimes(dir, time.Time{}, time.Unix(1e9, 0)))
	random(t, dir+"/db", 40<<20)
	begin := time.Now()
	must(t, command(0, "snapshot-restore", dir+"/backup", dir+"/db").Run())
	whole, n := time.Since(begin), 0
	for range 5 {
		random(t, dir+"/db", 40<<20)
		changed := describe(t, dir+"/db")["."].content
		n += killed(t, 0, whole, func() {
			if now := describe(t, dir+"/db")["."].content; now != changed && now != want["db"].content {
				t.Errorf("half of it was restored: %s", now)
			}
		}, "snapshot-restore", dir+"/backup", dir+"/db")
		got := describe(t, dir)
		delete(got, ".")
		delete(want, ".")
		equal(t, "restored", got, want)
	}
	if n < 5 {
		t.Errorf("killed %d times only", n)
	}
}

// TestUser runs the verbs as the user that owns the data.
func TestUser(t *testing.T) {
	testkit.Slow(t)
	needRoot(t)
	own := func(t *testing.T, dir string) {
		must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, user, user)
		}))
	}
	fresh := func(t *testing.T) (dir string) {
		dir = t.TempDir()
		must(t, os.Chmod(filepath.Dir(dir), 0o755))
		plant(t, dir)
		own(t, dir+"/data")
		must(t, os.Chmod(dir+"/data/shared", 0o500)) // not writable by the daemon
		must(t, os.Chmod(dir+"/data/private", 0o400))
		must(t, os.Mkdir(dir+"/backups", 0o700))
		own(t, dir+"/backups")
		return dir
	}
	for name, do := range harm {
		switch name {
		case "owner", "all removed", "file in place", "attributes": // they need root, or to write in the parent
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := fresh(t)
			want := describe(t, dir+"/data")
			_, err := as(t, user, "snapshot-save", "100000000", dir+"/data", dir+"/backups/1")
			must(t, err)
			equal(t, "backup", describe(t, dir+"/backups/1"), want)
			do(t, func(name string) string { return filepath.Join(dir+"/data", name) })
			own(t, dir+"/data")
			for range 2 {
				_, err = as(t, user, "snapshot-restore", dir+"/backups/1", dir+"/data")
				must(t, err)
				equal(t, "restored", describe(t, dir+"/data"), want)
			}
			if _, err := Restore(dir+"/backups/1", dir+"/data"); err == nil {
				t.Error("root restored what a user has saved")
			}
			// Root only measures data that it does not trust.
			if sum, err := Measure(dir + "/backups/1"); err != nil || sum.Entries != int64(len(want)) {
				t.Errorf("measured %s, %v", sum, err)
			}
		})
	}
	t.Run("not theirs", func(t *testing.T) {
		dir := fresh(t)
		must(t, os.Chown(dir+"/data/odd/machinemon", 0, 0))
		_, err := as(t, user, "snapshot-save", "100000000", dir+"/data", dir+"/backups/1")
		refused(t, err, "/odd/machinemon: is owned by user 0, and user 1234 cannot give it back")
		must(t, os.Chown(dir+"/data/odd/machinemon", user, 0))
		_, err = as(t, user, "snapshot-save", "100000000", dir+"/data", dir+"/backups/1")
		refused(t, err, "/odd/machinemon: cannot give it the owner 1234 and the group 0: operation not permitted")
		must(t, os.Chown(dir+"/data/odd/machinemon", user, user))
		_, err = as(t, user, "snapshot-save", "100000000", dir+"/data", dir+"/backups/1")
		must(t, err)
		must(t, os.Chown(dir+"/data/odd", 0, 0))
		put(t, dir+"/data/odd/new", "x")
		_, err = as(t, user, "snapshot-restore", dir+"/backups/1", dir+"/data")
		refused(t, err, "/data/odd/new: permission denied")
		_, err = as(t, user, "snapshot-save", "100000000", "/etc/shadow", dir+"/backups/2")
		refused(t, err, "/etc/shadow: permission denied")
	})
	t.Run("killed", func(t *testing.T) {
		dir := fresh(t)
		random(t, dir+"/data/db", 20<<20)
		own(t, dir+"/data")
		want := describe(t, dir+"/data")
		_, err := as(t, user, "snapshot-save", "100000000", dir+"/data", dir+"/backups/1")
		must(t, err)
		must(t, os.WriteFile(dir+"/data/db", []byte("migrated"), 0o644))
		must(t, os.Chmod(dir+"/data/shared", 0o700))
		killed(t, user, 100*time.Millisecond, func() {}, "snapshot-restore", dir+"/backups/1", dir+"/data")
		equal(t, "restored", describe(t, dir+"/data"), want)
	})
}
