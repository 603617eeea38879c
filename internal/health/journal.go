package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/machinemon/machinemon-update/internal/systemd"
)

// journalctl reads the journal, in a process without the gate's capability and with the
// group that may read it. Its output is not trusted: it is bounded and compared, and
// never repeated.

const (
	heardMost = 16 << 20 // bytes of a unit's newest lines that are read
	endsMost  = 8        // of systemd's own entries about a unit
	errorMost = 4 << 10  // bytes of journalctl's error output
)

// said returns nil if a line of a unit's present run contains text. The last run of an idle
// unit before the trial is not its present one.
func (p peers) said(ctx context.Context, text string) error {
	return p.each(func(p peers) error {
		if run, rested := p.rested[p.unit.Name]; rested && run == p.unit.Invocation {
			return errors.New(p.unit.Name + " has not been started since")
		}
		return logged(ctx, p.unit, text)
	})
}

// logged returns nil if a line of the unit's present run contains text. It reads the
// newest lines first.
func logged(ctx context.Context, u systemd.Unit, text string) error {
	if u.Invocation == "" {
		return notAsked{errors.New("systemd does not say which run of the unit this is")}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := &finder{text: []byte(text), room: heardMost, stop: stop}
	err := journalctl(ctx, u.LogNamespace, f, "--output=cat", "--reverse",
		"_SYSTEMD_INVOCATION_ID="+u.Invocation, "_SYSTEMD_UNIT="+u.Name)
	switch {
	case f.found:
		return nil
	case f.room <= 0:
		return noAnswer{fmt.Errorf("it is not among the newest %d MiB of the unit's lines, and there are more", heardMost>>20)}
	case ctx.Err() != nil:
		return noAnswer{errors.New("the journal was not read to its end in time")}
	}
	first, ferr := oldest(ctx, u.LogNamespace)
	switch {
	case err != nil:
		return lacking{err}
	case ferr != nil:
		return ferr
	case first.IsZero():
		return lacking{errors.New("cannot read the journal: it shows no entry (hint: does journald keep one? see Storage= in journald.conf(5))")}
	case first.After(u.BeganAt):
		return notAsked{errors.New("the journal does not reach back to the start of the unit")}
	}
	return errors.New("no line since the start of the unit contains it")
}

// oldest returns the time of the first entry of the journal; zero if journalctl shows
// none.
func oldest(ctx context.Context, namespace string) (time.Time, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	out := &head{limit: 64 << 10, stop: stop}
	err := journalctl(ctx, namespace, out, "--system", "--output=json", "--output-fields=PRIORITY")
	line, _, whole := bytes.Cut(out.data, []byte("\n"))
	if !whole {
		if len(out.data) == 0 && ctx.Err() == nil {
			return time.Time{}, nil
		}
		return time.Time{}, notAsked{errors.Join(err, errors.New("cannot find the first entry of the journal"))}
	}
	var entry struct {
		At string `json:"__REALTIME_TIMESTAMP"`
	}
	if err := json.Unmarshal(line, &entry); err != nil {
		return time.Time{}, lacking{fmt.Errorf("cannot read the journal: %w", err)}
	}
	usec, err := strconv.ParseInt(entry.At, 10, 64)
	if err != nil {
		return time.Time{}, lacking{errors.New("cannot read the journal: its time is no number")}
	}
	return time.UnixMicro(usec), nil
}

// end is how a main process ended before systemd started it again.
type end struct {
	known       bool // its status or signal is known
	code, value int32
	clean       bool // systemd took it for a success, and logged no more
}

// MESSAGE_IDs of systemd, see sd-messages(3).
const (
	processExited    = "98e322203f7a4ed290d09fe03c09fe15" // logged unless the exit is a success
	restartScheduled = "5eb03494b6584870a536b337290809b3"
)

// lastEnd reads from systemd's entries how the main process ended before systemd last
// restarted the unit.
func lastEnd(ctx context.Context, unit, namespace string, since time.Time) (end, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	out := &head{limit: endsMost << 10}
	// systemd writes its own entries into the system's journal, in each namespace.
	err := journalctl(ctx, "", out, "--output=json", "--reverse", fmt.Sprintf("--lines=%d", endsMost),
		"--output-fields=MESSAGE_ID,INVOCATION_ID,EXIT_CODE,EXIT_STATUS", fmt.Sprintf("--since=@%d", since.Unix()),
		"_PID=1", "UNIT="+unit, "MESSAGE_ID="+processExited, "MESSAGE_ID="+restartScheduled)
	if err != nil {
		return end{}, err
	}
	return parseEnd(out.data)
}

// parseEnd reads journalctl's entries, the newest first. It finds the newest restart that
// systemd scheduled, and the exit of the same run.
func parseEnd(data []byte) (end, error) {
	var run string
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var e struct {
			Message string `json:"MESSAGE_ID"`
			Run     string `json:"INVOCATION_ID"`
			Code    string `json:"EXIT_CODE"`
			Status  string `json:"EXIT_STATUS"`
		}
		err := d.Decode(&e)
		switch {
		case errors.Is(err, io.EOF):
			return end{clean: run != ""}, nil
		case err != nil:
			return end{}, fmt.Errorf("cannot read the journal: %w", err)
		case e.Message == restartScheduled && run == "":
			run = e.Run
		case e.Message == processExited && run != "" && e.Run == run:
			code := map[string]int32{"exited": systemd.Exited, "killed": systemd.Killed, "dumped": systemd.Dumped}[e.Code]
			value, err := strconv.ParseInt(e.Status, 10, 32)
			return end{known: err == nil && code != 0, code: code, value: int32(value)}, nil
		}
	}
}

// journalctl runs the program and writes its output to out.
func journalctl(ctx context.Context, namespace string, out io.Writer, args ...string) error {
	argv := []string{"journalctl", "--quiet", "--no-pager"}
	if namespace != "" {
		argv = append(argv, "--namespace="+namespace)
	}
	said := &tail{limit: errorMost}
	err := launch(ctx, append(argv, args...), out, said)
	if err == nil {
		return nil
	}
	if text := oneLine(string(said.data)); text != "" {
		return fmt.Errorf("cannot read the journal: %s", text)
	}
	return fmt.Errorf("cannot read the journal: %w", plain(err))
}

// finder is a writer that searches for a text, and stops its source when it has found the
// text or has read as much as it may.
type finder struct {
	text  []byte
	room  int
	rest  []byte // the end of the last write, in which the text may begin
	found bool
	stop  func()
}

func (f *finder) Write(p []byte) (int, error) {
	if f.found || f.room <= 0 {
		return len(p), nil
	}
	f.rest = append(f.rest, p...)
	f.room -= len(p)
	f.found = bytes.Contains(f.rest, f.text)
	f.rest = append(f.rest[:0], f.rest[max(0, len(f.rest)-len(f.text)+1):]...)
	if f.found || f.room <= 0 {
		f.stop()
	}
	return len(p), nil
}

// head is a writer that keeps the first bytes. If stop is set, it stops its source after
// the first line.
type head struct {
	data  []byte
	limit int
	stop  func()
}

func (h *head) Write(p []byte) (int, error) {
	if room := h.limit - len(h.data); room > 0 {
		h.data = append(h.data, p[:min(room, len(p))]...)
	}
	if h.stop != nil && (bytes.IndexByte(h.data, '\n') >= 0 || len(h.data) >= h.limit) {
		h.stop()
	}
	return len(p), nil
}
