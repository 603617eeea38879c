package gate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// order is how a list of clients is sorted: by a column, then by their IDs, both up or both down.
type order struct {
	column string
	desc   bool
}

// orders maps the values of the parameter sort to the columns that they sort by.
var orders = map[string]string{"host": "hostname", "version": "version", "seen": "seen", "result": "result", "attempt": "attempted"}

// newOrder returns the order for the page's parameters: without a known column by host name.
func newOrder(sort, direction string) order {
	return order{cmp.Or(orders[sort], "hostname"), direction == "desc"}
}

// ofClass reports whether all clients of a class have the same value in the column.
func (o order) ofClass() bool { return o.column == "version" || o.column == "result" }

// selected is a class of which a list has all clients, or a part of them.
type selected struct {
	id    int64
	n     int    // the clients that the list has
	value string // of the order's column, if that is of the class
}

// selection is what a list has: clients of some classes.
type selection struct {
	whole []selected
	// part has classes of clients that were told of a release. The list has only those
	// clients that are silent since, or only those that are not.
	part   []selected
	silent bool
	before int64 // see silentBefore
	// like is the pattern that the names of the clients match: see matchesPattern. If it is
	// not "", found is the number of clients that match.
	like  string
	found int
}

func (l *selection) n() (n int) {
	for _, c := range slices.Concat(l.whole, l.part) {
		n += c.n
	}
	return n
}

// with returns what either list has. The classes that both have parts of are whole then.
func (l *selection) with(others selection) selection {
	if others.n() == 0 {
		return *l
	}
	return selection{whole: slices.Concat(l.whole, l.part, others.whole, others.part)}
}

// has returns a function that reports whether the list has a client.
func (l *selection) has() func(class, seen int64) bool {
	whole, part := map[int64]bool{}, map[int64]bool{}
	for _, c := range l.whole {
		whole[c.id] = true
	}
	for _, c := range l.part {
		part[c.id] = true
	}
	return func(class, seen int64) bool { return whole[class] || part[class] && (seen < l.before) == l.silent }
}

func ids(of []selected) []int64 {
	all := make([]int64, len(of))
	for i, c := range of {
		all[i] = c.id
	}
	return all
}

// array returns a parameter for many values, and in the condition that a column has one of
// them.
func (s *store) array(values any) any {
	if s.postgres {
		return values
	}
	text, _ := json.Marshal(values) // cannot fail for numbers and strings
	return string(text)
}

func (s *store) in(column, parameter string) string {
	if s.postgres {
		return column + " = ANY(" + parameter + ")"
	}
	return column + " IN (SELECT value FROM json_each(" + parameter + "))"
}

// first returns the IDs of the first clients of a selection, at most limit. all is the
// number of all clients.
func (s *store) first(ctx context.Context, l selection, o order, limit, all int) ([]string, error) {
	switch {
	case limit <= 0 || l.n() == 0:
		return nil, nil
	case o.ofClass() && (l.like == "" || l.found > all/50):
		return s.firstOfClasses(ctx, l, o, limit, all)
	}
	query, args := s.firstQuery(l, o, limit, all)
	return s.clientIDs(ctx, query, args...)
}

// firstQuery returns the query of first. A list of few clients is found by their classes
// and sorted, one of many by the index of the column, which skips those of other classes. A
// search that finds few of many reads all clients, and sorts those that it finds.
func (s *store) firstQuery(l selection, o order, limit, all int) (query string, args []any) {
	class, column := "class", o.column
	switch {
	case s.postgres: // it has statistics
	case column == "client_id": // its own index has no class
	case l.n() <= all/50:
		column = "+" + column // not by its index
	case l.like != "" && l.found <= all/50 && column != "hostname": // that index has both names
		class, column = "+class", "+"+column
	default:
		class = "+class"
	}
	condition, args := s.condition(l, class, nil)
	if l.like != "" {
		args = append(args, l.like)
		condition += " AND " + s.matchesPattern(fmt.Sprintf("$%d", len(args)))
	}
	args = append(args, limit)
	return fmt.Sprintf("SELECT client_id FROM clients WHERE %s ORDER BY %s LIMIT $%d", condition, s.orderBy(column, o.desc), len(args)), args
}

// condition returns the condition that a list has a client, and appends its parameters to args.
func (s *store) condition(l selection, class string, args []any) (string, []any) {
	parameter := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	of := ids(slices.Concat(l.whole, l.part))
	var condition string
	if len(of) == 1 { // the index of classes has the clients of one in the order of their IDs
		condition = class + " = " + parameter(of[0])
	} else {
		condition = s.in(class, parameter(s.array(of)))
	}
	if len(l.part) > 0 {
		compare := " AND seen >= "
		if !l.silent {
			compare = " AND seen < "
		}
		condition += " AND NOT (" + s.in("+class", parameter(s.array(ids(l.part)))) + compare + parameter(l.before) + ")"
	}
	return condition, args
}

// firstOfClasses is first for an order in which the clients of a class are together.
func (s *store) firstOfClasses(ctx context.Context, l selection, o order, limit, all int) (found []string, err error) {
	values := map[string]*selection{}
	of := func(value string) *selection {
		if values[value] == nil {
			values[value] = &selection{silent: l.silent, before: l.before, like: l.like, found: l.found}
		}
		return values[value]
	}
	for _, c := range l.whole {
		of(c.value).whole = append(of(c.value).whole, c)
	}
	for _, c := range l.part {
		of(c.value).part = append(of(c.value).part, c)
	}
	sorted := make([]string, 0, len(values))
	for value := range values {
		sorted = append(sorted, value)
	}
	slices.Sort(sorted)
	if o.desc {
		slices.Reverse(sorted)
	}
	for _, value := range sorted {
		if len(found) >= limit {
			break
		}
		next, err := s.first(ctx, *values[value], order{"client_id", o.desc}, limit-len(found), all)
		if err != nil {
			return nil, err
		}
		found = append(found, next...)
	}
	return found, nil
}

// orderBy returns the order by a column and by the clients' IDs. Both ascend or both descend,
// so that the column's index has this order, also of the clients with the same value.
func (s *store) orderBy(column string, desc bool) string {
	id := "client_id" + s.collation
	if desc {
		id += " DESC"
	}
	switch column {
	case "client_id":
		return id
	case "seen", "+seen", "attempted", "+attempted":
	default:
		column += s.collation
	}
	if desc {
		column += " DESC"
	}
	return column + ", " + id
}

func (s *store) clientIDs(ctx context.Context, query string, args ...any) (all []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, rows.Err()
}

// listed is a client's report, and of what it was told: see class.
type listed struct {
	report
	told string
}

// reportsOf returns the reports of clients, by their IDs.
func (s *store) reportsOf(ctx context.Context, clients []string) (map[string]listed, error) {
	all := map[string]listed{}
	if len(clients) == 0 {
		return all, nil
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	of := "clients." + strings.ReplaceAll(columns, ", ", ", clients.")
	rows, err := s.db.QueryContext(ctx, "SELECT told, "+of+" FROM clients JOIN classes ON id = class WHERE "+s.in("client_id", "$1"), s.array(clients))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r listed
		var seen, attempted, held int64
		if err := rows.Scan(&r.told, &r.ClientID, &r.Hostname, &r.OS, &r.Arch, &r.Version, &seen, &r.Target, &r.Result,
			&r.ResultVersion, &r.Reason, &r.Rejected, &attempted, &held, &r.Lot); err != nil {
			return nil, err
		}
		r.Seen, r.Attempted, r.Held = time.Unix(seen, 0).UTC(), unixTime(attempted), held != 0
		all[r.ClientID] = r
	}
	return all, rows.Err()
}
