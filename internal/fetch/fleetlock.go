package fetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/fetch/download"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	lockTime   = 20 * time.Second // for an answer of the server of the lock
	lockAnswer = 64 << 10         // bytes of it that are read
)

// The requests of the protocol, and what a server that refuses them does not do.
const lockIt, unlockIt = "pre-reboot", "steady-state"

var refused = map[string]string{lockIt: "give the lock of", unlockIt: "take back the lock of"}

// deferredError says that the fleet does not let this machine install now.
type deferredError struct{ reason string }

func (e *deferredError) Error() string { return "it waits: " + e.reason }

// needsLock reports whether the attempt must hold the lock of the fleet. A person's does not.
func (f *fetcher) needsLock() bool {
	return f.fleet.URL != "" && f.order.Origin != state.OriginOperator
}

// lockFleet takes the lock of the fleet for this attempt, or returns a [deferredError]. An
// answer that does not arrive may have given the lock, so the record of it stays then, and it
// is given back.
func (f *fetcher) lockFleet(ctx context.Context) error {
	id := rollout.ID(f.machineID)
	if id == "" {
		return fmt.Errorf("cannot take the lock of %s: this machine has no ID (hint: sudo systemd-machine-id-setup)", f.fleet.URL)
	}
	l := state.FleetLock{Attempt: f.order.Attempt, URL: f.fleet.URL, Group: f.fleet.Group, ID: id + "-" + f.name, Since: time.Now().UTC()}
	old, err := f.tree.FleetLock(f.name)
	if err != nil {
		return err
	}
	if old != nil && (old.URL != l.URL || old.Group != l.Group || old.ID != l.ID) { // the target file has changed
		if err := giveBack(ctx, f.tree, f.name, *old); err != nil {
			return &deferredError{err.Error()}
		}
	}
	if err := f.tree.SetFleetLock(f.name, l); err != nil {
		return err
	}
	f.asked = time.Now().UTC()
	sent, err := askFleet(ctx, l, lockIt)
	if err == nil {
		f.deferred = nil
		return nil
	}
	f.deferred = &state.Deferral{Asked: f.asked, Reason: state.Line(err.Error())}
	if !sent {
		if err := f.tree.DropFleetLock(f.name); err != nil {
			return err
		}
	}
	return &deferredError{err.Error()}
}

// Unlock gives the lock of the fleet back that the last attempt on a target held, if any.
func Unlock(ctx context.Context, tree state.Tree, name string) error {
	l, err := tree.FleetLock(name)
	if err != nil || l == nil {
		return err
	}
	return giveBack(ctx, tree, name, *l)
}

func giveBack(ctx context.Context, tree state.Tree, name string, l state.FleetLock) error {
	_, err := askFleet(ctx, l, unlockIt)
	if err == nil {
		return tree.DropFleetLock(name)
	}
	l.Failed, l.Tried = err.Error(), time.Now().UTC()
	if l.Failing.IsZero() {
		l.Failing = l.Tried
	}
	return errors.Join(err, tree.SetFleetLock(name, l))
}

// askFleet makes a request of FleetLock's protocol. Unless sent, the server has not carried
// it out, or has said so.
func askFleet(ctx context.Context, l state.FleetLock, what string) (sent bool, err error) {
	doc, err := json.Marshal(map[string]any{"client_params": map[string]string{"id": l.ID, "group": l.Group}})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent = true }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(l.URL, "/")+"/v1/"+what, bytes.NewReader(doc))
	if err != nil {
		return false, err
	}
	req.Header.Set("fleet-lock-protocol", "true")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "machinemon-update")
	answer, err := download.Direct(req.URL, download.DefaultLimits).Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", lockTime)
		}
		return sent, fmt.Errorf("cannot ask %s for the lock of group %s: %w", l.URL, l.Group, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 == 2 {
		return true, nil
	}
	var said struct{ Kind, Value string }
	body, err := io.ReadAll(io.LimitReader(answer.Body, lockAnswer))
	if err != nil || json.Unmarshal(body, &said) != nil { // it is no server of FleetLock, or none that works
		said.Value = ""
	}
	why := fmt.Sprintf("status %d", answer.StatusCode)
	if text := cmp.Or(said.Value, said.Kind); text != "" {
		why += ", " + quoted(text)
	}
	// A gateway may fail after the server behind it has carried the request out.
	return answer.StatusCode >= http.StatusInternalServerError, fmt.Errorf("%s does not %s group %s: %s", l.URL, refused[what], l.Group, why)
}

// quoted makes one short line of what the server said.
func quoted(text string) string {
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "…"
	}
	return state.Line(text)
}
