// Package log writes the workers' lines to systemd's journal, with fields that say what a
// line is about, or to stderr where that is not the journal, as in tests and chroots. It
// keeps nothing on disk. The journal of an open trial is something else; see package
// state.
//
// The fields are for people and monitoring. No program of ours reads them back, because
// every local user can send lines with any fields. Text from outside becomes one line of
// bounded length and cannot become a field of its own.
package log

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Log writes a worker's lines. Every line carries the fields that are filled in by then;
// a field that is not known (yet) is "".
type Log struct {
	Stage   string // the worker's unit without "machinemon-", or "begin" or "recover"
	Target  string
	Attempt state.AttemptID
	Version string // of the release that the attempt is about

	to      io.Writer
	journal bool // whether to is the journal's stream
}

// New returns the log of this process, which is a worker at this stage of a target;
// target is "" if the worker handles all of them.
func New(stage, target string) *Log {
	// After an error it is unknown what stderr is: lines go there, without fields.
	is, err := journal.StderrIsJournalStream()
	l := &Log{Stage: stage, Target: target, to: os.Stderr, journal: is && err == nil}
	l.introduce()
	return l
}

// Plain returns a log that writes lines without fields.
func Plain(to io.Writer) *Log { return &Log{to: to} }

// Printf writes a line about progress, or about trouble that does not decide how the
// attempt ends.
func (l *Log) Printf(format string, args ...any) {
	l.write(journal.PriInfo, "", fmt.Sprintf(format, args...))
}

// Event writes a line about an event that monitoring may want to match.
func (l *Log) Event(e Event, format string, args ...any) {
	l.write(e.priority(), messageIDs[e], fmt.Sprintf(format, args...))
}

// Ended writes the line that says how an attempt ended at this stage.
func (l *Log) Ended(a state.Attempt) {
	l.Attempt, l.Version = a.ID, a.Version
	l.Event(Event(a.Result), "%s", a.Line(l.Target))
	if a.Cause != "" {
		l.Printf("%s: the cause: %s", l.Target, a.Cause)
	}
}

// Error writes the error with which the worker ends. The line has no MESSAGE_ID, because
// an attempt that ended by this error had a line of its own.
func (l *Log) Error(err error) {
	l.write(Event(state.ResultOf(err)).priority(), "", err.Error())
}

// patience is how long a line may wait for a journal that does not answer: a rollback
// matters more than its lines.
const patience = time.Second

func (l *Log) write(priority journal.Priority, messageID, text string) {
	text = state.Line(text)
	if l.journal {
		l.introduce()
		fields, sent := l.fields(messageID), make(chan error, 1)
		go func() { sent <- journal.Send(text, priority, fields) }()
		err := errors.New("it does not listen")
		select {
		case err = <-sent:
		case <-time.After(patience):
		}
		if err == nil {
			return
		}
		l.journal = false
		fmt.Fprintf(l.to, "cannot send to the journal, so lines have no fields: %v\n", err)
	}
	fmt.Fprintln(l.to, text)
}

// introduce makes the journal look this process up while it lives. The journal learns the
// unit of a line's sender by its PID, too late for a process that has ended: such a line
// would be missing from `journalctl --unit`. The journal knows the unit of what comes by
// stderr, remembers the PID, and does not keep an empty line.
func (l *Log) introduce() {
	if l.journal {
		fmt.Fprintln(l.to)
	}
}

func (l *Log) fields(messageID string) map[string]string {
	fields := map[string]string{
		"MESSAGE_ID": messageID, "MACHINEMON_STAGE": l.Stage, "MACHINEMON_TARGET": l.Target,
		"MACHINEMON_ATTEMPT": string(l.Attempt), "MACHINEMON_VERSION": l.Version,
		// The name that systemd gives to lines from stderr.
		"SYSLOG_IDENTIFIER": filepath.Base(os.Args[0]),
	}
	for name, value := range fields {
		if value == "" {
			delete(fields, name)
		}
	}
	return fields
}

var mute sync.Once

// Status sets the unit's STATUS= text, which `systemctl status` shows. Outside a unit
// that listens it does nothing. It reports only the first failure.
func Status(text string) {
	if _, err := daemon.SdNotify(false, "STATUS="+state.Line(text)); err != nil {
		mute.Do(func() { fmt.Fprintf(os.Stderr, "cannot send the status to systemd: %v\n", err) })
	}
}
