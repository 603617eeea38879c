package gate

import (
	"context"
	"slices"
	"time"

	"github.com/machinemon/machinemon-update/internal/state"
)

// keptAttempts is the number of attempts that the database keeps of each client.
const keptAttempts = 20

// attempt is how an attempt of a client ended, as the client reported it.
type attempt struct {
	Ended   time.Time `json:"ended"`
	Result  string    `json:"result"`
	Version string    `json:"version,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// uneventful are the results of checks that changed and failed nothing, and of attempts
// that go on. One such check each hour would drive the others out of the history.
var uneventful = []state.Result{state.ResultCurrent, state.ResultAvailable, state.ResultNotAttempted, state.ResultHandedOn, state.ResultOnTrial}

// remember writes the last attempt of a report into the client's history.
func (w *writer) remember(ctx context.Context, r report) error {
	if r.Result == "" || r.Attempted.IsZero() || slices.Contains(uneventful, state.Result(r.Result)) {
		return nil
	}
	n, err := w.exec(ctx, "INSERT INTO attempts (client_id, ended, result, version, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (client_id, ended) DO NOTHING",
		r.ClientID, r.Attempted.Unix(), r.Result, r.ResultVersion, r.Reason)
	if n == 0 {
		return err
	}
	_, err = w.exec(ctx, "DELETE FROM attempts WHERE client_id = $1 AND ended < (SELECT ended FROM attempts WHERE client_id = $2 ORDER BY ended DESC LIMIT 1 OFFSET $3)",
		r.ClientID, r.ClientID, keptAttempts-1)
	return err
}

// history returns the attempts of a client, the newest first.
func (s *store) history(ctx context.Context, client string) ([]attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, "SELECT ended, result, version, reason FROM attempts WHERE client_id = $1 ORDER BY ended DESC", clean(client))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []attempt{}
	for rows.Next() {
		var a attempt
		var ended int64
		if err := rows.Scan(&ended, &a.Result, &a.Version, &a.Reason); err != nil {
			return nil, err
		}
		a.Ended = unixTime(ended)
		all = append(all, a)
	}
	return all, rows.Err()
}
