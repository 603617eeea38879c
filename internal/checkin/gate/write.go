package gate

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// insertReports writes reports in one transaction.
func (s *store) insertReports(ctx context.Context, reports []report) (err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil { // package sql ends the transaction then, and says that
			err = ctx.Err()
		}
	}()
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	w := &writer{tx, map[string]*sql.Stmt{}}
	reports = newest(reports)
	before, err := s.toldBefore(ctx, tx, reports)
	if err != nil {
		return err
	}
	all := make([]class, len(reports))
	for i, r := range reports {
		told, err := w.remindTold(ctx, r, before[r.ClientID])
		if err != nil {
			return err
		}
		all[i] = classOf(r, told)
	}
	day := today()
	known := s.known.get(day)
	fresh, err := identify(ctx, tx, day, known, all)
	if err != nil {
		return err
	}
	for i, r := range reports {
		id, is := known[all[i]]
		if !is {
			id = fresh[all[i]]
		}
		if err := w.write(ctx, r, id); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.known.add(day, fresh)
	return nil
}

// writer writes reports in one transaction. It prepares each statement when it first needs
// it: to parse one takes a database longer than to execute it.
type writer struct {
	tx       *sql.Tx
	prepared map[string]*sql.Stmt // they end with the transaction
}

// exec executes a statement, and returns how many rows it has changed.
func (w *writer) exec(ctx context.Context, text string, args ...any) (int64, error) {
	statement := w.prepared[text]
	if statement == nil {
		var err error
		if statement, err = w.tx.PrepareContext(ctx, text); err != nil {
			return 0, err
		}
		w.prepared[text] = statement
	}
	changed, err := statement.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return changed.RowsAffected()
}

// write writes a report of a class, by the cheapest of the statements that applies.
func (w *writer) write(ctx context.Context, r report, class int64) error {
	for i, like := range []string{updateSame, updateAttempt} {
		switch n, err := w.exec(ctx, like, r.Seen.Unix(), r.Target, r.Reason, r.Lot, r.ClientID, r.Hostname, unixSeconds(r.Attempted), class); {
		case err != nil:
			return err
		case n > 0 && i == 0:
			return nil // its attempt is in the history already
		case n > 0:
			return w.remember(ctx, r)
		}
	}
	if _, err := w.exec(ctx, upsert, r.ClientID, r.Hostname, r.OS, r.Arch, r.Version, r.Seen.Unix(), r.Target, r.Result, r.ResultVersion, r.Reason, r.Rejected,
		unixSeconds(r.Attempted), boolToInt(r.Held), r.Lot, class); err != nil {
		return err
	}
	return w.remember(ctx, r)
}

// newer is the condition under which a report replaces a client's older one. A newer report,
// of another gate, stays unless it is newer by more than an hour: then that gate's clock
// was wrong.
const newer = "(clients.seen <= %[1]s OR clients.seen - 3600 > %[1]s)"

// updateSame writes a report like the one before, as most are. It leaves out what is in an
// index or is the same for all of the class: writing that would cost several times as much.
var updateSame = "UPDATE clients SET seen = $1, target = $2, reason = $3, lot = $4 WHERE client_id = $5 AND hostname = $6 AND attempted = $7 AND class = $8 AND " + fmt.Sprintf(newer, "$1")

// updateAttempt is updateSame for a report of another attempt.
var updateAttempt = "UPDATE clients SET seen = $1, target = $2, reason = $3, lot = $4, attempted = $7 WHERE client_id = $5 AND hostname = $6 AND class = $8 AND " + fmt.Sprintf(newer, "$1")

// upsert inserts a client's report or replaces its older one.
var upsert = func() string {
	var values, set []string
	all := columns + ", class"
	for i, c := range strings.Split(all, ", ") {
		values, set = append(values, fmt.Sprintf("$%d", i+1)), append(set, c+" = excluded."+c)
	}
	return "INSERT INTO clients (" + all + ") VALUES (" + strings.Join(values, ", ") + ") ON CONFLICT (client_id) DO UPDATE SET " +
		strings.Join(set[1:], ", ") + " WHERE " + fmt.Sprintf(newer, "excluded.seen")
}()

// upsertTold records that a client was told of a version, and since when.
const upsertTold = "INSERT INTO told (client_id, version, since, seen) VALUES ($1, $2, $3, $4) ON CONFLICT (client_id) DO UPDATE SET " +
	"version = excluded.version, since = excluded.since, seen = excluded.seen"

// told is of which version a client was told last, and since when.
type told struct {
	version string
	since   int64
}

// toldBefore reads what those clients were told that are told of a release now. To ask for
// each of them would take PostgreSQL a round trip.
func (s *store) toldBefore(ctx context.Context, tx *sql.Tx, reports []report) (map[string]told, error) {
	before := map[string]told{}
	var clients []string
	for _, r := range reports {
		if r.Told != "" {
			clients = append(clients, r.ClientID)
		}
	}
	if len(clients) == 0 {
		return before, nil
	}
	rows, err := tx.QueryContext(ctx, "SELECT client_id, version, since FROM told WHERE "+s.in("client_id", "$1"), s.array(clients))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var t told
		if err := rows.Scan(&id, &t.version, &t.since); err != nil {
			return nil, err
		}
		before[id] = t
	}
	return before, rows.Err()
}

// remindTold records of which version the gate told a client, unless it did so before. It
// returns that version, unless the client was told for longer than reaction.
func (w *writer) remindTold(ctx context.Context, r report, before told) (version string, err error) {
	if r.Told == "" {
		return "", nil
	}
	now := r.Seen.Unix()
	if before.version != r.Told {
		before.since = now
		if _, err := w.exec(ctx, upsertTold, r.ClientID, r.Told, now, now); err != nil {
			return "", err
		}
	}
	if now-before.since > int64(reaction/time.Second) {
		return "", nil
	}
	return r.Told, nil
}

// newest returns the newest report of each client, with clean text, sorted by client ID.
// Gates that wrote the same clients in different orders would deadlock.
func newest(reports []report) []report {
	all := slices.Clone(reports)
	for i := range all {
		r := &all[i]
		for _, text := range []*string{&r.ClientID, &r.Hostname, &r.OS, &r.Arch, &r.Version, &r.Target, &r.Result, &r.ResultVersion, &r.Reason, &r.Rejected} {
			*text = clean(*text)
		}
	}
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b report) int {
		return cmp.Or(strings.Compare(a.ClientID, b.ClientID), b.Seen.Compare(a.Seen))
	})
	return slices.CompactFunc(all, func(a, b report) bool { return a.ClientID == b.ClientID })
}

// clean removes what PostgreSQL refuses, and would fail the transaction of all reports.
func clean(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "") }
