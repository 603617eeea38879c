package machine

import (
	"context"
	"fmt"
	"strings"
)

// Event is what systemd logged about a unit, such as "started".
type Event struct{ Unit, What string }

// String returns the form in which tests name events: "demo.service started".
func (e Event) String() string { return e.Unit + " " + e.What }

// whatHappened names PID 1's messages by their MESSAGE_ID (sd-messages(3)). A oneshot
// unit that succeeds gives starting, done, started; one that fails gives starting,
// failed, not-started.
var whatHappened = map[string]string{
	"7d4958e842da4a758f6c1cdc7b36dcc5": "starting",
	"39f53479d3a045ac8e11786248231fbf": "started",
	"be02cf6855d2428ba40df7e9d022f03d": "not-started", // the start job failed, also because of a dependency
	"de5b426a63be47a7b6ac3eaac82e2f6f": "stopping",
	"9d1aaa27d60140bd96365438aad20286": "stopped",
	"7ad2d189f7e94e70a38c781354912448": "done",   // its processes ended successfully
	"d9b373ed55a64feb8242e02dbe79a49c": "failed", // its processes failed; UNIT_RESULT= has the kind of failure
	"5eb03494b6584870a536b337290809b3": "restarting",
	"0e4284a0caca4bfc81c0bb6786972673": "skipped", // because of its ExecCondition=
}

// UnitEvent returns the event that an entry is, and false if it is none.
func (e Entry) UnitEvent() (Event, bool) {
	what, ok := whatHappened[e["MESSAGE_ID"]]
	if !ok || e["_PID"] != "1" {
		return Event{}, false
	}
	if what == "started" && strings.Contains(e["MESSAGE"], " was skipped because of ") {
		what = "skipped" // a condition did not hold: systemd logs that as a start
	}
	return Event{Unit: e["UNIT"], What: what}, true
}

// UnitEvents returns the events after the cursor, in the order of the journal.
func (m *Machine) UnitEvents(ctx context.Context, after Cursor) ([]Event, error) {
	entries, err := m.JournalSince(ctx, after)
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, e := range entries {
		if event, ok := e.UnitEvent(); ok {
			events = append(events, event)
		}
	}
	return events, nil
}

// AwaitEvent waits until systemd reports the event, such as "demo.service
// started", after the cursor.
func (m *Machine) AwaitEvent(ctx context.Context, after Cursor, event string) error {
	_, err := m.AwaitJournal(ctx, after, func(e Entry) bool {
		got, ok := e.UnitEvent()
		return ok && got.String() == event
	})
	if err != nil {
		return fmt.Errorf("%s: %w", event, err)
	}
	return nil
}

// InOrder returns an error, with the list of events, unless the wanted events happened in
// this order. Other events may lie between them.
func InOrder(events []Event, want ...string) error {
	next := 0
	var seen strings.Builder
	for _, e := range events {
		if next < len(want) && e.String() == want[next] {
			next++
		}
		fmt.Fprintf(&seen, "\n\t%s", e)
	}
	if next < len(want) {
		return fmt.Errorf("%q did not happen after %q; events were:%s", want[next], want[:next], &seen)
	}
	return nil
}
