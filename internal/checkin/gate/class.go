package gate

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// class is what the page counts clients by. The row of each client refers to the row of its
// class, so that an index tells how many clients a class has. Only what differs within a
// class, as a client's place in a rollout, needs the clients' own rows.
type class struct {
	OS, Arch, Version, Result, ResultVersion, Rejected string
	Held                                               bool
	Unexplained                                        bool // it has a reason, but no result
	// Told is the version that the gate announced in the last check-in, unless it had
	// announced that for longer than reaction before. If the client is silent since, the
	// release may be the cause.
	Told string
}

const classColumns = "os, arch, version, result, result_version, rejected, held, unexplained, told"

// classOf returns the class of a report whose text is clean.
func classOf(r report, told string) class {
	return class{r.OS, r.Arch, r.Version, r.Result, r.ResultVersion, r.Rejected, r.Held, r.Result == "" && r.Reason != "", told}
}

// report returns a report of this class.
func (c class) report() report {
	r := report{OS: c.OS, Arch: c.Arch, Version: c.Version, Result: c.Result, ResultVersion: c.ResultVersion, Rejected: c.Rejected, Held: c.Held}
	if c.Unexplained {
		r.Reason = "unknown"
	}
	return r
}

func (c class) values() []any {
	return []any{c.OS, c.Arch, c.Version, c.Result, c.ResultVersion, c.Rejected, boolToInt(c.Held), boolToInt(c.Unexplained), c.Told}
}

func compareClasses(a, b class) int {
	return cmp.Or(strings.Compare(a.OS, b.OS), strings.Compare(a.Arch, b.Arch), strings.Compare(a.Version, b.Version), strings.Compare(a.Result, b.Result),
		strings.Compare(a.ResultVersion, b.ResultVersion), strings.Compare(a.Rejected, b.Rejected), strings.Compare(a.Told, b.Told),
		boolToInt(a.Held)-boolToInt(b.Held), boolToInt(a.Unexplained)-boolToInt(b.Unexplained))
}

// upsertClass returns the ID of a class, which is the first parameter unless it has one. It
// locks the row, so that no other gate deletes it in this transaction: see forgetClasses.
const upsertClass = "INSERT INTO classes (id, used, " + classColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (" + classColumns + ") " +
	"DO UPDATE SET used = excluded.used RETURNING id"

// knownClasses has the IDs of the classes that this gate used today.
type knownClasses struct {
	mu  sync.Mutex
	day int64
	ids map[class]int64
}

// maxClasses limits knownClasses: clients could report any number of versions.
const maxClasses = 10_000

// get returns what is known on a day. Nobody changes that map.
func (k *knownClasses) get(day int64) map[class]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.day != day || len(k.ids) > maxClasses {
		k.day, k.ids = day, map[class]int64{}
	}
	return k.ids
}

// add adds classes whose transaction was committed.
func (k *knownClasses) add(day int64, fresh map[class]int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.day == day && len(fresh) > 0 {
		k.ids = maps.Clone(k.ids)
		maps.Copy(k.ids, fresh)
	}
}

// identify returns the IDs of those classes that are not known. It creates their rows in
// the order of compareClasses: gates that locked them in different orders would deadlock.
func identify(ctx context.Context, tx *sql.Tx, day int64, known map[class]int64, all []class) (fresh map[class]int64, err error) {
	var missing []class
	for _, c := range all {
		if _, is := known[c]; !is {
			missing = append(missing, c)
		}
	}
	slices.SortFunc(missing, compareClasses)
	fresh = map[class]int64{}
	for _, c := range slices.Compact(missing) {
		var id int64
		// IDs are short because four indexes have them.
		if err := tx.QueryRowContext(ctx, upsertClass, append([]any{rand.Int64N(1 << 47), day}, c.values()...)...).Scan(&id); err != nil {
			return nil, err
		}
		fresh[c] = id
	}
	return fresh, nil
}

// today returns the number of the day, by which the use of classes is recorded.
func today() int64 { return time.Now().Unix() / (24 * 60 * 60) }

// forgetClasses deletes classes without clients. A gate may know a class on the day on which
// it used it, so those of the last days stay.
func (s *store) forgetClasses(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, "DELETE FROM classes WHERE used < $1 AND NOT EXISTS (SELECT 1 FROM clients WHERE clients.class = classes.id)", today()-2)
	return err
}

// counted is a class and its number of clients.
type counted struct {
	class
	id     int64
	n      int
	silent int // of those that were told of a release, how many are silent since
}

const (
	// silentAfter is how long a client may be silent after it was told of a release.
	silentAfter = 30 * time.Minute
	// reaction is the time in which a client that updates itself begins with that. One that
	// still checked in after it did not fall silent because of the release.
	reaction = 15 * time.Minute
)

// silentBefore is the time of the last check-in of a client that is silent now.
func silentBefore(now time.Time) int64 { return now.Add(-silentAfter).Unix() }

const countClasses = "SELECT id, n, " + classColumns + " FROM (SELECT class, COUNT(*) AS n FROM clients GROUP BY class) AS counts JOIN classes ON id = class ORDER BY n DESC, id"

// classes calls f for each class that has clients, those with most clients first.
func (s *store) classes(ctx context.Context, now time.Time, f func(counted)) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	silent, err := s.silent(ctx, now)
	if err != nil {
		return err
	}
	rows, err := s.db.QueryContext(ctx, countClasses)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var c counted
		if err := rows.Scan(&c.id, &c.n, &c.OS, &c.Arch, &c.Version, &c.Result, &c.ResultVersion, &c.Rejected, &c.Held, &c.Unexplained, &c.Told); err != nil {
			return err
		}
		c.silent = min(silent[c.id], c.n)
		f(c)
	}
	return rows.Err()
}

// countSilent counts silent clients. With the pluses, SQLite reads those alone, by the index of
// seen, which has the class as well.
const countSilent = "SELECT +class, COUNT(*) FROM clients WHERE seen < $1 AND +class IN (SELECT id FROM classes WHERE told <> '') GROUP BY +class"

// silent returns, for the classes of clients that were told of a release, how many of their
// clients are silent. Most of the time there is no such class, or it has few clients.
func (s *store) silent(ctx context.Context, now time.Time) (map[int64]int, error) {
	counts := map[int64]int{}
	var told bool
	if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM classes WHERE told <> '')").Scan(&told); err != nil || !told {
		return counts, err
	}
	rows, err := s.db.QueryContext(ctx, countSilent, silentBefore(now))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return nil, err
		}
		counts[id] = n
	}
	return counts, rows.Err()
}
