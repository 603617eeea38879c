package state

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRequest(t *testing.T) {
	tree := newTree(t)
	must(t, tree.SetRequest("agent", Request{Attempt: "op-1", Verb: VerbRollback}))
	if r, err := tree.TakeRequest("other"); err != nil || r != nil {
		t.Errorf("another target's: %+v, %v", r, err)
	}
	if r, err := tree.TakeRequest("agent"); err != nil || r == nil || r.Attempt != "op-1" || r.Verb != VerbRollback {
		t.Errorf("got %+v, %v", r, err)
	}
	if r, err := tree.TakeRequest("agent"); err != nil || r != nil {
		t.Errorf("taken twice: %+v, %v", r, err)
	}
	// These were left by a killed command, or were not made since this boot.
	for _, past := range []time.Duration{lapse + time.Minute, -lapse - time.Minute} {
		old := Request{Format: Format, Attempt: "op-2", Verb: VerbApply, Made: uptime() - past}
		must(t, writeJSON(tree.request("agent"), old))
		for range 2 {
			if r, err := tree.TakeRequest("agent"); err != nil || r != nil {
				t.Errorf("%s old: %+v, %v", past, r, err)
			}
		}
	}
	// An unusable request is removed too, and is an error only once.
	path := filepath.Join(tree.Run, "request/agent.json")
	for _, bad := range []string{"rot", `{"format":1,"attempt":"../x"}`, `{"format":1}`, `{"format":9,"attempt":"a"}`} {
		must(t, os.WriteFile(path, []byte(bad), 0o644))
		if r, err := tree.TakeRequest("agent"); err == nil || r != nil {
			t.Errorf("%s: %+v, %v", bad, r, err)
		}
		if r, err := tree.TakeRequest("agent"); err != nil || r != nil {
			t.Errorf("%s: the second time: %+v, %v", bad, r, err)
		}
	}
}

func TestOrder(t *testing.T) {
	tree := newTree(t)
	want := Order{Attempt: "a1", Origin: OriginSchedule, Verb: VerbCheck, Installed: "v1"}
	must(t, tree.SetOrder("agent", want))
	want.Format = Format
	if got, err := tree.Order("agent"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTakeOrder(t *testing.T) {
	tree := newTree(t)
	must(t, tree.SetOrder("agent", Order{Attempt: "a1"}))
	if tree.OrderTaken("agent", "a1") {
		t.Error("taken before it was taken")
	}
	if o, err := tree.TakeOrder("agent"); err != nil || o.Attempt != "a1" {
		t.Errorf("got %+v, %v", o, err)
	}
	if !tree.OrderTaken("agent", "a1") || tree.OrderTaken("agent", "a0") || tree.OrderTaken("other", "a1") {
		t.Error("it is not known which order was taken")
	}
	_, err := tree.TakeOrder("agent")
	wantError(t, err, "cannot read", "no such file")
}

func TestNewAttempt(t *testing.T) {
	a, b := NewAttempt(), NewAttempt()
	if !a.Valid() || a == b || string(a[:8]) != time.Now().UTC().Format("20060102") {
		t.Errorf("%q, %q", a, b)
	}
	// Attempts that begin within the same second sort in that order.
	start, c := time.Now(), a
	for c[:len("20060102t150405000")] == a[:len("20060102t150405000")] {
		c = NewAttempt()
	}
	if took := time.Since(start); c < a || took > 500*time.Millisecond {
		t.Errorf("%q comes before %q, or the time in it changed only after %s", c, a, took)
	}
	for _, bad := range []string{"", ".", "..", ".a", "a/b", "A", "a\n", "a.new", "é", "0123456789012345678901234567890123456789x"} {
		if AttemptID(bad).Valid() {
			t.Errorf("%q is an ID", bad)
		}
	}
}

const lockEnv = "MACHINEMON_TEST_LOCK"

// TestMain makes the test binary a program that holds a lock until its input ends.
func TestMain(m *testing.M) {
	if run := os.Getenv(lockEnv); run != "" {
		if _, err := (Tree{Run: run}).Lock("agent"); err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("locked\n")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tryLock takes the lock of [Tree.Lock] without waiting.
func tryLock(t Tree, target string) (func(), error) {
	return t.flock(target, unix.LOCK_EX|unix.LOCK_NB)
}

func TestLock(t *testing.T) {
	tree := newTree(t)
	release, err := tryLock(tree, "agent")
	must(t, err)
	if _, err := tryLock(tree, "agent"); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	for name, lock := range map[string]func() (func(), error){
		"another target": func() (func(), error) { return tryLock(tree, "other") },
		"the operator's": func() (func(), error) { return tree.LockOperator("agent") },
	} {
		if free, err := lock(); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			free()
		}
	}
	got := make(chan error)
	go func() {
		free, err := tree.Lock("agent")
		if err == nil {
			free()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // it waits
	}
	release()
	must(t, <-got)
	must(t, os.RemoveAll(tree.Run))
	_, err = tryLock(tree, "agent")
	wantError(t, err, "cannot lock "+tree.Run+"/lock/agent")
}

// TestLockEnds checks that a lock ends with its process, even with a killed one.
func TestLockEnds(t *testing.T) {
	tree := newTree(t)
	holder := exec.Command("/proc/self/exe")
	holder.Env = []string{lockEnv + "=" + tree.Run}
	in, err := holder.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(tree, "agent"); !errors.Is(err, ErrLocked) {
		t.Errorf("while another process holds it: %v", err)
	}
	must(t, holder.Process.Kill())
	_ = holder.Wait() // "signal: killed"
	release, err := tryLock(tree, "agent")
	must(t, err)
	release()
}

// TestBeside: a directory that targets share stays while one of them is about to use it.
func TestBeside(t *testing.T) {
	tree := newTree(t)
	dir, used := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "used")
	must(t, os.MkdirAll(filepath.Join(used, "backup"), 0o700))
	there := func(want bool) {
		t.Helper()
		must(t, tree.RemoveBeside(dir, used))
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("the empty directory: %v", err)
		}
		if _, err := os.Stat(used); err != nil {
			t.Error(err)
		}
	}
	one, err := tree.KeepBeside()
	must(t, err)
	two, err := tree.KeepBeside() // they do not wait for each other
	must(t, err)
	must(t, os.Mkdir(dir, 0o700))
	there(true)
	one()
	there(true)
	two()
	for range 2 { // the first one has given the lock back
		there(false)
		must(t, os.Mkdir(dir, 0o700))
	}
	run := tree.Run
	tree.Run = filepath.Join(dir, "nothing")
	there(false)
	must(t, os.Mkdir(dir, 0o700))
	tree.Run = run
	lock := filepath.Join(run, "lock", beside)
	must(t, os.Remove(lock))
	must(t, os.Mkdir(lock, 0o700))
	if err := tree.RemoveBeside(dir); err == nil {
		t.Error("removed without the lock")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
