package health

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemd"
	"github.com/machinemon/machinemon-update/internal/target"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

// TestParseEnd reads entries of systemd 252 as journalctl prints them, the newest first.
func TestParseEnd(t *testing.T) {
	exit := func(run, code, status string) string {
		return `{"INVOCATION_ID":"` + run + `","EXIT_CODE":"` + code + `","MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","EXIT_STATUS":"` + status + `","__CURSOR":"s=1"}` + "\n"
	}
	restart := func(run string) string {
		return `{"MESSAGE_ID":"5eb03494b6584870a536b337290809b3","INVOCATION_ID":"` + run + `"}` + "\n"
	}
	for _, c := range []struct {
		name, journal string
		want          end
		fails         bool
	}{
		{name: "nothing"},
		{name: "exit 75", journal: restart("a") + exit("a", "exited", "75"), want: end{known: true, code: systemd.Exited, value: 75}},
		{name: "a signal", journal: restart("a") + exit("a", "killed", "15"), want: end{known: true, code: systemd.Killed, value: 15}},
		{name: "a core", journal: restart("a") + exit("a", "dumped", "6"), want: end{known: true, code: systemd.Dumped, value: 6}},
		{name: "a success, of which systemd says no more", journal: restart("a"), want: end{clean: true}},
		{name: "the old program's end is none of it", journal: restart("b") + exit("a", "exited", "75"), want: end{clean: true}},
		{name: "the newest counts", journal: restart("b") + exit("b", "exited", "1") + restart("a") + exit("a", "exited", "75"), want: end{known: true, code: systemd.Exited, value: 1}},
		{name: "the newest counts, of which systemd says no more", journal: restart("b") + restart("a") + exit("a", "exited", "75"), want: end{clean: true}},
		{name: "no restart", journal: exit("a", "exited", "75")},
		{name: "no number", journal: restart("a") + exit("a", "exited", "many"), want: end{code: systemd.Exited}},
		{name: "cut short", journal: restart("a") + `{"MESSAGE_ID":`, fails: true},
	} {
		got, err := parseEnd([]byte(c.journal))
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestFinder(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []string
		room   int
		found  bool
		stops  int
	}{
		{name: "in one piece", pieces: []string{"a\nit works now\n", "more"}, room: 100, found: true, stops: 1},
		{name: "in two", pieces: []string{"a\nit wo", "rks\n"}, room: 100, found: true, stops: 1},
		{name: "letter by letter", pieces: strings.Split("xxit worksx", ""), room: 100, found: true, stops: 1},
		{name: "not", pieces: []string{"it\nworks\n", "it work"}, room: 100},
		{name: "beyond what is looked at", pieces: []string{"0123456789", "it works"}, room: 10, stops: 1},
	} {
		stops := 0
		f := &finder{text: []byte("it works"), room: c.room, stop: func() { stops++ }}
		for _, p := range c.pieces {
			if n, err := f.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
		}
		if f.found != c.found || stops != c.stops || len(f.rest) >= len("it works") {
			t.Errorf("%s: found %v, %d stops, keeps %q", c.name, f.found, stops, f.rest)
		}
	}
}

func TestHead(t *testing.T) {
	stops := 0
	h := &head{limit: 8, stop: func() { stops++ }}
	for _, p := range []string{"abc", "d\nefghijk"} {
		if _, err := h.Write([]byte(p)); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(h.data, []byte("abcd\nefg")) || stops != 1 {
		t.Errorf("%q, %d stops", h.data, stops)
	}
	h = &head{limit: 8, stop: func() { stops++ }}
	if h.Write([]byte("a line without an end")); stops != 2 {
		t.Error("a line that is too long does not stop its source")
	}
}

// TestJournalProbes: what a journal probe says of a unit's lines. The program in the place
// of journalctl has a directory with the lines of each run, and the journal's first entry.
func TestJournalProbes(t *testing.T) {
	const journalctl = `#!/bin/sh
for a; do case $a in
--namespace=*) echo "no such namespace" >&2; exit 1 ;;
_SYSTEMD_INVOCATION_ID=much) exec head -c 16777216 /dev/zero ;;
_SYSTEMD_INVOCATION_ID=*) exec cat "$0.${a#*=}" ;;
esac; done
exec cat "$0.first"
`
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	fake := filepath.Join(dir, "journalctl")
	testkit.Put(t, fake, journalctl)
	testkit.Must(t, os.Chmod(fake, 0o755))
	testkit.Put(t, fake+".new", "it works\nstarting\n")
	testkit.Put(t, fake+".old", "started\n")
	const began = `{"__REALTIME_TIMESTAMP":"1000000"}` + "\n"
	run := systemd.Unit{Name: "x.service", Invocation: "new", BeganAt: time.UnixMicro(2_000_000)}
	with := func(change func(u *systemd.Unit)) systemd.Unit {
		u := run
		change(&u)
		return u
	}
	var rows []testkit.Row
	for _, row := range []struct {
		name, first string
		unit        systemd.Unit
		text, want  string
	}{
		{"a line of this run contains it", began, run, "it works", ""},
		{"no line contains it", began, run, "is ready", "no line since the start of the unit contains it"},
		{"only a line of the run before contains it", began, run, "started", "no line since the start of the unit contains it"},
		{"only the run before contains it, and the idle unit has not run since", began, with(func(u *systemd.Unit) { u.Invocation = "old" }), "started", "x.service has not been started since"},
		{"the journal begins after the unit", began, with(func(u *systemd.Unit) { u.BeganAt = time.UnixMicro(1) }), "is ready", "the journal does not reach back to the start of the unit"},
		{"the journal is empty", "", run, "is ready", "cannot read the journal: it shows no entry (hint: does journald keep one? see Storage= in journald.conf(5))"},
		{"the first entry of the journal is cut short", strings.TrimSuffix(began, "\n"), run, "is ready", "cannot find the first entry of the journal"},
		{"the unit has more lines than are read", began, with(func(u *systemd.Unit) { u.Invocation = "much" }), "it works", "it is not among the newest 16 MiB of the unit's lines, and there are more"},
		{"systemd does not know the run", began, with(func(u *systemd.Unit) { u.Invocation = "" }), "it works", "systemd does not say which run of the unit this is"},
		{"the journal cannot be read", began, with(func(u *systemd.Unit) { u.LogNamespace = "y" }), "it works", "cannot read the journal: no such namespace"},
	} {
		testkit.Put(t, fake+".first", row.first)
		p := peers{units: []systemd.Unit{row.unit}, rested: map[string]string{"x.service": "old"}}
		err := probers(target.Health{Probes: []target.Probe{{Journal: row.text}}}, nil)[0].try(t.Context(), p)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
		// These are of the program; the others show nothing about it.
		own := strings.HasPrefix(got, "no line") || strings.HasPrefix(got, "x.service") || strings.HasPrefix(got, "it is not among")
		_, unasked := errors.AsType[notAsked](err)
		_, lacks := errors.AsType[lacking](err)
		if err != nil && own == (unasked || lacks) {
			t.Errorf("%s: %T", row.name, err)
		}
		rows = append(rows, testkit.Row{What: row.name, Refused: row.want})
	}
	testkit.Accepted(t, "Journal probes", rows)

	// A journal that takes too long to be read shows nothing about the program.
	testkit.Put(t, fake, "#!/bin/sh\nexec sleep 60\n")
	ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
	defer cancel()
	if err := logged(ctx, run, "it works"); !errors.As(err, new(noAnswer)) {
		t.Errorf("a slow journal: %v", err)
	}
}

// TestDeclared checks which ends of the main process the unit declares, as systemd tells
// them while it restarts the unit, or as the journal has them afterwards.
func TestDeclared(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	fake := filepath.Join(dir, "journalctl")
	testkit.Put(t, fake, "#!/bin/sh\nexec cat \"$0.ends\"\n")
	testkit.Must(t, os.Chmod(fake, 0o755))
	const (
		restart = `{"MESSAGE_ID":"5eb03494b6584870a536b337290809b3","INVOCATION_ID":"a"}`
		exit75  = restart + `{"MESSAGE_ID":"98e322203f7a4ed290d09fe03c09fe15","INVOCATION_ID":"a","EXIT_CODE":"exited","EXIT_STATUS":"75"}`
	)
	only75 := systemd.Exits{Statuses: []int32{75}}
	for _, c := range []struct {
		name          string
		forced, clean systemd.Exits
		is            unitState
		journal       string
		want          bool
	}{
		{"the unit declares nothing", systemd.Exits{}, systemd.Exits{}, asks, "", false},
		{"RestartForceExitStatus=", only75, systemd.Exits{}, asks, "", true},
		{"SuccessExitStatus=", systemd.Exits{}, only75, asks, "", true},
		{"another exit", only75, systemd.Exits{}, crashed, "", false},
		{"restarted already", only75, systemd.Exits{}, up.restarted(1), exit75, true},
		{"restarted already, after another exit", systemd.Exits{Statuses: []int32{76}}, systemd.Exits{}, up.restarted(1), exit75, false},
		{"restarted already, after a success", systemd.Exits{}, only75, up.restarted(1), restart, true},
		{"restarted already, after a success that no key declares", only75, systemd.Exits{}, up.restarted(1), restart, false},
		{"restarted twice", only75, systemd.Exits{}, up.restarted(2), exit75, false},
		{"not restarted", only75, systemd.Exits{}, up, exit75, false},
	} {
		testkit.Put(t, fake+".ends", c.journal)
		c.is.Forced, c.is.Clean = c.forced, c.clean
		e := exits{since: time.Now()}
		if got := e.declared(t.Context(), c.is); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		// Only the first end can be forgiven.
		testkit.Put(t, fake+".ends", exit75)
		c.is.Active, c.is.Sub, c.is.NRestarts = "active", "running", 1
		if c.want && e.declared(t.Context(), c.is) {
			t.Errorf("%s: declared twice", c.name)
		}
	}
}
