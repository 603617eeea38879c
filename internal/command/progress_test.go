package command

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// screen is a terminal with a number of columns, and the line that it shows.
type screen struct {
	t        *testing.T
	terminal *os.File
	master   *bufio.Reader
	columns  int
	cells    []rune
	at       int
}

func openScreen(t *testing.T, columns int) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	return &screen{t: t, terminal: terminal, master: bufio.NewReader(master), columns: columns}
}

// line returns the line that the screen shows. It fails if the output leaves the line, or
// has control sequences that progress does not need.
func (s *screen) line() string {
	s.t.Helper()
	// The output comes in pieces; the mark follows the last one.
	if _, err := s.terminal.Write([]byte{0}); err != nil {
		s.t.Fatal(err)
	}
	written, err := s.master.ReadString(0)
	if err != nil {
		s.t.Fatal(err)
	}
	written = strings.TrimSuffix(written, "\x00")
	for _, r := range strings.NewReplacer("\x1b[K", "\x01", "\x1b[0K", "\x01").Replace(written) {
		switch {
		case r == '\r':
			s.at = 0
		case r == '\x01':
			s.cells = s.cells[:min(s.at, len(s.cells))]
		case r < ' ':
			s.t.Fatalf("%q holds %q", written, r)
		case s.at == s.columns:
			s.t.Fatalf("%q is wider than %d columns", written, s.columns)
		default:
			for len(s.cells) <= s.at {
				s.cells = append(s.cells, ' ')
			}
			s.cells[s.at] = r
			s.at++
		}
	}
	return strings.TrimRight(string(s.cells), " ")
}

func TestProgress(t *testing.T) {
	for _, name := range []string{"agent", strings.Repeat("n", 64)} {
		for columns := 10; columns <= 140; columns += 5 {
			t.Run(fmt.Sprintf("%d columns, %d letters", columns, len(name)), func(t *testing.T) {
				s := openScreen(t, columns)
				p := &progress{to: s.terminal, terminal: s.terminal, name: name}
				shows := func(want string) {
					t.Helper()
					want = want[:min(len(want), columns-1)]
					if got := s.line(); got != strings.TrimRight(want, " ") {
						t.Errorf("the terminal shows %q, want %q", got, want)
					}
				}
				p.step("fetching", "")
				shows(name + ": fetching")
				const total = 987_654_321
				for _, done := range []int64{-1, 1, 999_999, 123_456_789, 999_999_999} {
					p.download("fetching", done, total)
					if p.bar == nil {
						shows(fmt.Sprintf("%s: fetching: %.0f%%", name, 100*float64(max(0, min(done, total)))/total))
					}
				}
				if withBar := columns >= len(name+": fetching")+besideBar; withBar != (p.bar != nil) {
					t.Errorf("a bar: %v, want %v", p.bar != nil, withBar)
				} else if withBar {
					if got := s.line(); !strings.HasPrefix(got, name+": fetching") || !strings.Contains(got, "100%") || !strings.Contains(got, "(988/988 MB") {
						t.Errorf("the bar ends as %q", got)
					}
				}
				p.step("watching", "settling: 5 s left\x1b[2J")
				shows(name + ": watching: settling: 5 s left [2J")
				p.step("watching", "")
				shows(name + ": watching")
				p.download("fetching", total, total)
				if got := s.line(); columns > len(name+": fetching: 100%") && !strings.Contains(got, "100%") {
					t.Errorf("the second download shows %q", got)
				}
				p.end()
				shows("")
			})
		}
	}
}

// TestShow: without a terminal each step is printed once, in order, regardless of the
// units' status texts.
func TestShow(t *testing.T) {
	b := newBench(t)
	active := func(texts map[string]string) []systemd.Unit {
		clear(b.systemd.units)
		for step, text := range texts {
			b.systemd.units[unit(step, "agent")] = systemd.Unit{Active: "activating", Status: text}
		}
		units, err := b.look()
		if err != nil {
			t.Fatal(err)
		}
		return units
	}
	for _, texts := range []map[string]string{
		{},
		{"fetch": ""},
		{"fetch": systemd.ProgressText(1, 100)},
		{"fetch": systemd.ProgressText(50, 100)},
		{"fetch": "\x1b[2J"},
		{"fetch": systemd.ProgressText(100, 100), "verify": ""}, // the fetcher will end soon
		{"fetch": systemd.ProgressText(100, 100), "verify": "unpacking"},
		{"baseline": "waiting for a probe"},
		{"swap": ""},
		{"health-gate": "settling: 5 s left"},
		{"health-gate": "settling: 4 s left"},
		{"commit": ""},
	} {
		b.show(t.Context(), active(texts))
	}
	want := []string{"agent: fetching", "agent: verifying", "agent: swapping", "agent: watching", "agent: committing", ""}
	if got := strings.Split(b.said.String(), "\n"); !slices.Equal(got, want) {
		t.Errorf("said %q\nwant %q", got, want)
	}
	b.follower.progress = nil // --json
	b.show(t.Context(), active(map[string]string{"swap": ""}))
}

// TestShowOnTerminal: a terminal also shows the status texts of the units, except the
// fetcher's, which is not trusted.
func TestShowOnTerminal(t *testing.T) {
	b := newBench(t)
	s := openScreen(t, 40)
	b.follower.progress = &progress{to: s.terminal, terminal: s.terminal, name: "agent"}
	for _, c := range []struct{ step, text, want string }{
		{"fetch", "all is well", "agent: fetching"},
		{"fetch", systemd.ProgressText(1, 4), "agent: fetching: 25%"},
		{"health-gate", "settling: 4 s left", "agent: watching: settling: 4 s left"},
		{"commit", "", "agent: committing"},
	} {
		b.systemd.units = map[string]systemd.Unit{unit(c.step, "agent"): {Active: "activating", Status: c.text}}
		units, err := b.look()
		if err != nil {
			t.Fatal(err)
		}
		b.show(t.Context(), units)
		if got := s.line(); got != c.want {
			t.Errorf("%s: the terminal shows %q, want %q", c.step, got, c.want)
		}
	}
}
