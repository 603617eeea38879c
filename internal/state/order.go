package state

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/machinemon/machinemon-update/internal/durable"
)

// Order is what root decided about the running attempt. The fetcher and the swapper obey
// it; a directive or a forged spool entry cannot change it.
type Order struct {
	Format    int       `json:"format"`
	Attempt   AttemptID `json:"attempt"`
	Origin    Origin    `json:"origin"`
	Verb      Verb      `json:"verb"`
	Import    bool      `json:"import,omitempty"` // this and the next two are as in [Request]
	URL       string    `json:"url,omitempty"`
	SHA256    string    `json:"sha256,omitempty"`
	Installed string    `json:"installed"` // the version found on the machine; "" if unknown
	// Booted says that the machine has just booted and its network may not be up yet, so a
	// failed download is tried again in a minute.
	Booted bool `json:"booted,omitempty"`
	// Doubt is why a new release would not be installed; "" if no reason is known. It only
	// saves the download: the swapper checks again.
	Doubt string `json:"doubt,omitempty"`
	// MainID is the installed main file, which the gate needs for the baseline.
	MainID FileID `json:"main_id,omitzero"`
}

// Brought reports whether the operator names where the release comes from, so that the
// target's source is not used.
func (o Order) Brought() bool { return o.Import || o.URL != "" }

// SetOrder records what root decided about the attempt that begins.
func (t Tree) SetOrder(target string, o Order) error {
	o.Format = Format
	return writeJSON(t.order(target), o)
}

// TakeOrder reads the order and renames its file, so that it starts one trial only. The
// renamed file is the evidence for [Tree.OrderTaken].
func (t Tree) TakeOrder(target string) (Order, error) {
	o, err := t.Order(target)
	if err != nil {
		return o, err
	}
	if err := os.Rename(t.order(target), t.taken(target)); err != nil {
		return o, fmt.Errorf("cannot take the order %s: %w", t.order(target), durable.Cause(err))
	}
	return o, nil
}

// OrderTaken reports whether the attempt's order was taken since the boot.
func (t Tree) OrderTaken(target string, attempt AttemptID) bool {
	var o Order
	return readJSON(t.taken(target), &o) == nil && o.Attempt == attempt
}

func (t Tree) order(target string) string { return filepath.Join(t.Run, "attempt", target+".json") }

func (t Tree) taken(target string) string {
	return filepath.Join(t.Run, "attempt", target+"@taken.json") // no target has an @ in its name
}

// Order returns the order of the running attempt.
func (t Tree) Order(target string) (Order, error) {
	var o Order
	err := readJSON(t.order(target), &o)
	return o, err
}
