package log

import (
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Event is something that can happen to an attempt: a [state.Result], or one of the
// following.
type Event string

const (
	EventBegins  Event = "begins"
	EventOnTrial Event = Event(state.ResultOnTrial) // the new files are in place, and the unit restarts
)

// messageIDs maps each event to its MESSAGE_ID. The IDs never change, because monitoring
// matches them. packaging/catalog explains each for `journalctl --catalog`.
var messageIDs = map[Event]string{
	EventBegins:                       "0477c0f1502a4c4caee27e8ac1fe0daf",
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
	Event(state.ResultRollbackFailed): "da6293d117cf45abaa6ef5f6096549e7",
}

// priority returns the syslog priority of an event; a result defines its own.
func (e Event) priority() journal.Priority {
	if e == EventBegins {
		return journal.PriInfo
	}
	return journal.Priority(state.Result(e).Priority())
}
