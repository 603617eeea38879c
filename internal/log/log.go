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
	"maps"
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
	maps.DeleteFunc(fields, func(_, value string) bool { return value == "" })
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

// Event is something that can happen to an attempt: a [state.Result], or one of the
// following.
type Event string

const (
	EventBegins  Event = "begins"
	EventOnTrial Event = Event(state.ResultOnTrial) // the new files are in place, and the unit restarts
	EventForeign Event = "foreign files"            // a worker's directory had files that its program does not make
)

// messageIDs maps each event to its MESSAGE_ID. The IDs never change, because monitoring
// matches them. packaging/catalog explains each for `journalctl --catalog`.
var messageIDs = map[Event]string{
	EventBegins:                       "0477c0f1502a4c4caee27e8ac1fe0daf",
	EventForeign:                      "ca2178028a2041c9a0e361c38f0ca97b",
	Event(state.ResultNotAttempted):   "56fe53bdc1e340c28861fd3e00bd4a99",
	Event(state.ResultCurrent):        "35c1cd9161c44ec1828b10d43a7e55ed",
	Event(state.ResultAvailable):      "2206db1d669f4f3aac271647c9173310",
	Event(state.ResultHandedOn):       "11a7af30a90e44b9ab264388a3c393c8",
	Event(state.ResultAdopted):        "4aeb2e9f818f42aa900526d0f747ba2d",
	EventOnTrial:                      "1ed9987a99454c3c9dac458da1f378f5",
	Event(state.ResultCommitted):      "9c85b4149e00495baca84cdfc5e28ce7",
	Event(state.ResultUnproven):       "fdbd9385adb3426782343f148bfbad14",
	Event(state.ResultNotDownloaded):  "672ac156402a4818ba5e384f810dce8a",
	Event(state.ResultRefused):        "c9a8067b62524ac2aab1e7df8b738fe0",
	Event(state.ResultFailed):         "668ac69d6c90497e8d442debaef78edd",
	Event(state.ResultMisconfigured):  "ad66a42e3a0247bea04f5353641f2556",
	Event(state.ResultRolledBack):     "96395f63a1f34d339d7313d51c4ec5bd",
	Event(state.ResultInterrupted):    "25a978a331694228b5052829d5f8ee85",
	Event(state.ResultSettled):        "5a14e3ed6c974f0292c0ba4f11a76f61",
	Event(state.ResultDrilled):        "c7f4be1fd0a04f0bb9a1e65aa0d8f2b3",
	Event(state.ResultRollbackFailed): "da6293d117cf45abaa6ef5f6096549e7",
}

// priority returns the syslog priority of an event; a result defines its own.
func (e Event) priority() journal.Priority {
	switch e {
	case EventBegins:
		return journal.PriInfo
	case EventForeign:
		return journal.PriWarning
	}
	return journal.Priority(state.Result(e).Priority())
}
