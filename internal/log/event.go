package log

import (
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/machinemon/machinemon-update/internal/state"
)

// Event is something that can happen to an attempt: a [state.Result], or one of
// the following.
type Event string

const (
	EventBegins  Event = "begins"
	EventOnTrial Event = Event(state.ResultOnTrial) // the new files are in place, and the unit is restarted
)

// An event is known by its MESSAGE_ID, which never changes: monitoring matches
// it. packaging/catalog explains each to `journalctl --catalog`.
type event struct {
	id       string
	priority journal.Priority
}

// The priorities: info when all is well or as the operator wants it, warning
// when an update did not work, crit when a person must come.
var events = map[Event]event{
	EventBegins:                       {"0477c0f1502a4c4caee27e8ac1fe0daf", journal.PriInfo},
	Event(state.ResultNotAttempted):   {"56fe53bdc1e340c28861fd3e00bd4a99", journal.PriInfo},
	Event(state.ResultCurrent):        {"35c1cd9161c44ec1828b10d43a7e55ed", journal.PriInfo},
	Event(state.ResultAvailable):      {"2206db1d669f4f3aac271647c9173310", journal.PriInfo},
	Event(state.ResultHandedOn):       {"11a7af30a90e44b9ab264388a3c393c8", journal.PriInfo},
	Event(state.ResultAdopted):        {"4aeb2e9f818f42aa900526d0f747ba2d", journal.PriInfo},
	EventOnTrial:                      {"1ed9987a99454c3c9dac458da1f378f5", journal.PriInfo},
	Event(state.ResultCommitted):      {"9c85b4149e00495baca84cdfc5e28ce7", journal.PriInfo},
	Event(state.ResultUnproven):       {"fdbd9385adb3426782343f148bfbad14", journal.PriInfo},
	Event(state.ResultNotDownloaded):  {"672ac156402a4818ba5e384f810dce8a", journal.PriWarning},
	Event(state.ResultRefused):        {"c9a8067b62524ac2aab1e7df8b738fe0", journal.PriWarning},
	Event(state.ResultFailed):         {"668ac69d6c90497e8d442debaef78edd", journal.PriWarning},
	Event(state.ResultMisconfigured):  {"ad66a42e3a0247bea04f5353641f2556", journal.PriWarning},
	Event(state.ResultRolledBack):     {"96395f63a1f34d339d7313d51c4ec5bd", journal.PriWarning},
	Event(state.ResultInterrupted):    {"25a978a331694228b5052829d5f8ee85", journal.PriWarning},
	Event(state.ResultSettled):        {"5a14e3ed6c974f0292c0ba4f11a76f61", journal.PriInfo},
	Event(state.ResultRollbackFailed): {"da6293d117cf45abaa6ef5f6096549e7", journal.PriCrit},
}
