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

// The journal is read by journalctl, in a process without the gate's capability and
// with the group that may read it. What it prints are strangers' lines: they are
// bounded, compared, and never repeated.

const (
	heardMost = 16 << 20 // bytes of a unit's newest lines that are looked at
	endsMost  = 8        // of systemd's own entries about a unit
	errorMost = 4 << 10  // bytes of what journalctl complains of
)

// logged finds text in a line of the unit's present run, the newest lines first.
func logged(ctx context.Context, u systemd.Unit, text string) error {
	if u.Invocation == "" {
		return noAnswer{errors.New("systemd does not say which run of the unit this is")}
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
		return err
	case ferr != nil:
		return ferr
	case first.IsZero():
		return errors.New("cannot read the journal: it shows no entry (hint: does journald keep one? see Storage= in journald.conf(5))")
	case first.After(u.BeganAt):
		return noAnswer{errors.New("the journal does not reach back to the start of the unit")}
	}
	return errors.New("no line since the start of the unit contains it")
}

// oldest is the time of the first entry of the system's journal; zero when none is
// to be seen.
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
		return time.Time{}, noAnswer{errors.Join(err, errors.New("cannot tell how far back the journal reaches"))}
	}
	var entry struct {
		At string `json:"__REALTIME_TIMESTAMP"`
	}
	if err := json.Unmarshal(line, &entry); err != nil {
		return time.Time{}, fmt.Errorf("cannot read the journal: %w", err)
	}
	usec, err := strconv.ParseInt(entry.At, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read the journal: its time is no number")
	}
	return time.UnixMicro(usec), nil
}

// end is how a main process ended before systemd started it again.
type end struct {
	known       bool // by the status or signal of its exit
	code, value int32
	clean       bool // systemd took it for a success, and says no more
}

// The messages of sd-messages(3) by which systemd tells of it.
const (
	processExited    = "98e322203f7a4ed290d09fe03c09fe15" // not of an exit that is a success
	restartScheduled = "5eb03494b6584870a536b337290809b3"
)

// lastEnd asks systemd's own entries why it last restarted a unit by itself.
func lastEnd(ctx context.Context, unit, namespace string, since time.Time) (end, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	out := &head{limit: endsMost << 10}
	// systemd itself always writes into the system's journal.
	err := journalctl(ctx, "", out, "--output=json", "--reverse", fmt.Sprintf("--lines=%d", endsMost),
		"--output-fields=MESSAGE_ID,INVOCATION_ID,EXIT_CODE,EXIT_STATUS", fmt.Sprintf("--since=@%d", since.Unix()),
		"_PID=1", "UNIT="+unit, "MESSAGE_ID="+processExited, "MESSAGE_ID="+restartScheduled)
	if err != nil {
		return end{}, err
	}
	return parseEnd(out.data)
}

// parseEnd reads journalctl's entries, the newest first: of the newest restart that
// was scheduled, and of the exit in the same run.
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
			code := map[string]int32{"exited": cldExited, "killed": cldKilled, "dumped": cldDumped}[e.Code]
			value, err := strconv.ParseInt(e.Status, 10, 32)
			return end{known: err == nil && code != 0, code: code, value: int32(value)}, nil
		}
	}
}

// journalctl runs it with its output going to out.
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

// finder looks for text in what is written to it, and stops the writer when it has
// found it or has seen enough.
type finder struct {
	text  []byte
	room  int
	rest  []byte // what was written last, where the text may have begun
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

// head keeps the first bytes that are written to it. With stop it ends the writer at
// the end of the first line.
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
