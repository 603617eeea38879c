package release

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust"
)

// TestStatusChangesNothing: status writes nothing and waits for no lock.
func TestStatusChangesNothing(t *testing.T) {
	s := newTestDir(t)
	s.publish("v1")
	for _, debris := range []string{".publish-1", "2.targets.json", "2.snapshot.json", strings.Repeat("0", 64) + ".client-manifest.json"} {
		s.must(os.WriteFile(filepath.Join(s.dir, debris), []byte("{}"), 0o644))
	}
	d, err := os.Open(s.dir)
	s.must(err)
	defer d.Close()
	s.must(unix.Flock(int(d.Fd()), unix.LOCK_EX)) // like a publisher
	before := s.files()

	for p := s.dir; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		s.must(os.Chmod(p, 0o555))
		defer os.Chmod(p, 0o755)
	}
	done := make(chan error, 1)
	go func() {
		// A user without write permission reads it. The thread ends with the goroutine.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				done <- err
				return
			}
		}
		status, err := ReadStatus(s.dir, s.now)
		if err == nil && status.Manifest.Version != "v1" {
			t.Errorf("got %+v", status)
		}
		done <- err
	}()
	select {
	case err := <-done:
		s.must(err)
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the lock")
	}
	if !mapsEqual(before, s.files()) {
		t.Errorf("left: %v", names(s.files()))
	}
}

// TestTimestampLost: a directory that lost its timestamp is not a new one: machines would
// refuse version 1, and the files needed for a repair would be discarded.
func TestTimestampLost(t *testing.T) {
	testkit.Slow(t)
	for _, tt := range []struct {
		releases int
		want     string
	}{
		{1, "timestamp.json is missing, but 1.snapshot.json is there (hint: restore it)"},
		{4, "timestamp.json is missing, but 4.snapshot.json is there (hint: restore it)"},
	} {
		s := newTestDir(t)
		for i := range tt.releases {
			s.publish("v" + string(rune('1'+i)))
		}
		lost := s.files()[trust.TimestampFile]
		s.must(os.Remove(filepath.Join(s.dir, trust.TimestampFile)))
		before := s.files()
		_, err := ReadStatus(s.dir, s.now)
		s.refused(err, tt.want)
		_, _, err = Publish(s.request("v9"))
		s.refused(err, tt.want)
		_, _, err = Set(SetRequest{Dir: s.dir, Keys: s.keys, Now: s.now})
		s.refused(err, tt.want)
		_, err = Refresh(s.dir, s.keys, s.now)
		s.refused(err, tt.want)
		if !mapsEqual(before, s.files()) {
			t.Fatalf("left: %v", names(s.files()))
		}
		s.must(os.WriteFile(filepath.Join(s.dir, trust.TimestampFile), []byte(lost), 0o644))
		s.publish("v9")
	}
}

// TestInterruptedFirst: a first publication has no earlier timestamp. The next run starts
// it again, wherever it was killed. The directory may have been unsigned before.
func TestInterruptedFirst(t *testing.T) {
	testkit.Slow(t)
	defer func(f func(string) error) { kept = f }(kept)
	for _, unsigned := range []bool{false, true} {
		for _, step := range []string{"1.targets.json", "1.snapshot.json"} {
			s := newTestDir(t)
			kept = func(string) error { return nil }
			if unsigned {
				q := s.request("v0")
				q.Dir = t.TempDir()
				_, _, err := Publish(q)
				s.must(err)
				s.must(os.CopyFS(s.dir, os.DirFS(q.Dir)))
			}
			kept = func(name string) error {
				if name == step {
					return errKilled
				}
				return nil
			}
			_, _, err := Publish(s.request("v1"))
			s.refused(err, errKilled.Error())
			kept = func(string) error { return nil }
			status, err := ReadStatus(s.dir, s.now)
			s.must(err)
			if status.Manifest != nil {
				t.Errorf("it publishes %+v", status.Manifest)
			}
			s.publish("v2")
		}
	}
}
