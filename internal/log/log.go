// Package log writes the workers' lines: to systemd's journal, with fields that
// say what a line is about, and to stderr where that is not the journal, as in
// tests and chroots. It keeps nothing on disk; the journal of an open trial is
// another thing, see package state.
//
// The fields are for people and monitoring, who look for them; no program of
// ours reads them back, for every local user can send lines with any fields.
// What strangers wrote is made one line of bounded length and cannot become a
// field of its own.
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

// Log is where a worker's lines go. The fields that it has filled in by then go
// with every line; those that are not known (yet) are "".
type Log struct {
	Stage   string // the worker's unit without "machinemon-", or "begin" or "recover"
	Target  string
	Attempt state.AttemptID
	Version string // of the release that the attempt is about

	to      io.Writer
	journal bool // to is the journal's stream
}

// New is the log of this process, a worker at this stage of a target ("" for
// one that is at work on all).
func New(stage, target string) *Log {
	// An error means that nobody knows what stderr is: lines go there.
	is, err := journal.StderrIsJournalStream()
	l := &Log{Stage: stage, Target: target, to: os.Stderr, journal: is && err == nil}
	l.introduce()
	return l
}

// Plain is a log of lines without fields.
func Plain(to io.Writer) *Log { return &Log{to: to} }

// Printf writes a line that tells of progress, or of trouble that does not
// decide how the attempt ends.
func (l *Log) Printf(format string, args ...any) {
	l.write(journal.PriInfo, "", fmt.Sprintf(format, args...))
}

// Event writes the line of something that monitoring may want to match.
func (l *Log) Event(e Event, format string, args ...any) {
	l.write(e.priority(), messageIDs[e], fmt.Sprintf(format, args...))
}

// Ended writes the line of how an attempt ended at this stage.
func (l *Log) Ended(a state.Attempt) {
	l.Attempt, l.Version = a.ID, a.Version
	l.Event(Event(a.Result), "%s", a.Line(l.Target))
}

// Error writes the line of an error with which the worker ends. It has no
// MESSAGE_ID: where an attempt ended by it, that had a line of its own.
func (l *Log) Error(err error) {
	l.write(Event(state.ResultOf(err)).priority(), "", err.Error())
}

// patience is how long a line may wait for a journal that does not listen: a
// rollback is worth more than its lines.
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

// introduce makes the journal look this process up while it lives. It learns
// the unit of a line's sender by its PID, too late for one that has ended: such
// a line would be missing from `journalctl --unit`. What comes by stderr is
// known to be the unit's, the PID is remembered, and an empty line is not kept.
func (l *Log) introduce() {
	if l.journal {
		fmt.Fprintln(l.to)
	}
}

func (l *Log) fields(messageID string) map[string]string {
	fields := map[string]string{
		"MESSAGE_ID": messageID, "MACHINEMON_STAGE": l.Stage, "MACHINEMON_TARGET": l.Target,
		"MACHINEMON_ATTEMPT": string(l.Attempt), "MACHINEMON_VERSION": l.Version,
		// As systemd names it in the lines from stderr.
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

// Status sets the unit's STATUS= text, which `systemctl status` shows. Outside
// a unit that listens it does nothing. When it fails it says so once.
func Status(text string) {
	if _, err := daemon.SdNotify(false, "STATUS="+state.Line(text)); err != nil {
		mute.Do(func() { fmt.Fprintf(os.Stderr, "cannot tell systemd the status: %v\n", err) })
	}
}
