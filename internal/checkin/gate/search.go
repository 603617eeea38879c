package gate

import (
	"context"
	"math"
	"slices"
	"strings"
)

// foundAtOnce is the number of clients that a search reads to sort and count them here. If
// there are more, the database counts them. Tests set a smaller one.
var foundAtOnce = 5000

// search returns the first clients of the lists, at most maxRows, of which the host name or
// the ID contains text, and the number of all such clients. all is the number of all clients.
// A search has to read all names, because no index finds a part of one.
func (s *store) search(ctx context.Context, text string, o order, lists []selection, all int) (first []string, n int, err error) {
	if clean(text) != text {
		return nil, 0, nil // the names in the database are clean
	}
	limit := max(foundAtOnce, all/50)
	if !isASCII(text) {
		limit = math.MaxInt32 - 1 // the database cannot count: see findQuery
	}
	has := make([]func(class, seen int64) bool, len(lists))
	for i, l := range lists {
		has[i] = l.has()
	}
	found, read := make([][]string, len(lists)), 0
	err = s.find(ctx, text, o, limit+1, func(id, host string, class, seen int64) {
		read++
		if !strings.Contains(strings.ToLower(host+" "+id), strings.ToLower(text)) {
			return
		}
		for i := range lists {
			if !has[i](class, seen) {
				continue
			}
			if n++; len(found[i]) < maxRows {
				found[i] = append(found[i], id)
			}
		}
	})
	if err != nil {
		return nil, 0, err
	}
	if read <= limit {
		first = slices.Concat(found...)
		return first[:min(len(first), maxRows)], n, nil
	}
	n = 0
	like := pattern(text)
	counts, err := s.countFound(ctx, like, lists, all)
	if err != nil {
		return nil, 0, err
	}
	for i, l := range lists {
		if l.like, l.found = like, counts[i]; l.found == 0 {
			continue
		}
		n += l.found
		some, err := s.first(ctx, l, o, maxRows-len(first), all)
		if err != nil {
			return nil, 0, err
		}
		first = append(first, some...)
	}
	return first, n, nil
}

// findQuery returns the query for the clients that a search may find, at most limit.
func (s *store) findQuery(text string, o order, limit int) (query string, args []any) {
	// The databases do not agree on the lower case of other letters than ASCII's, so the
	// gate compares all names with such letters.
	condition, args := "octet_length(hostname || client_id) <> length(hostname || client_id)", []any{limit}
	if isASCII(text) {
		condition, args = s.matchesPattern("$2"), append(args, pattern(text))
	}
	column := o.column
	if !s.postgres {
		column = "+" + column // by the index of the IDs, since most searches find few clients
	}
	return "SELECT client_id, hostname, class, seen FROM clients WHERE client_id IN (SELECT client_id FROM clients WHERE " + condition + " LIMIT $1) ORDER BY " +
		s.orderBy(column, o.desc), args
}

// find calls f for the clients that a search may find, at most limit, in an order.
func (s *store) find(ctx context.Context, text string, o order, limit int, f func(id, host string, class, seen int64)) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	query, args := s.findQuery(text, o, limit)
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, host string
		var class, seen int64
		if err := rows.Scan(&id, &host, &class, &seen); err != nil {
			return err
		}
		f(id, host, class, seen)
	}
	return rows.Err()
}

// countQuery returns the query for how many clients of each list match a pattern. If the
// lists have all clients, it counts those of all lists in place of the last list.
func (s *store) countQuery(like string, lists []selection, whole bool) (query string, args []any) {
	args = []any{like}
	counts := make([]string, len(lists))
	for i, l := range lists {
		counts[i] = "COUNT(*)"
		if !whole || i < len(lists)-1 {
			counts[i], args = s.condition(l, "+class", args)
			counts[i] = "COUNT(*) FILTER (WHERE " + counts[i] + ")"
		}
	}
	return "SELECT " + strings.Join(counts, ", ") + " FROM clients WHERE " + s.matchesPattern("$1"), args
}

// countFound returns how many clients of each list match a pattern.
func (s *store) countFound(ctx context.Context, like string, lists []selection, all int) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	listed := 0
	n, places := make([]int, len(lists)), make([]any, len(lists))
	for i, l := range lists {
		listed += l.n()
		places[i] = &n[i]
	}
	query, args := s.countQuery(like, lists, listed == all)
	err := s.db.QueryRowContext(ctx, query, args...).Scan(places...)
	if last := len(lists) - 1; listed == all {
		for _, other := range n[:last] {
			n[last] -= other
		}
	}
	return n, err
}

// pattern returns the pattern that names with a text match.
func pattern(text string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(strings.ToLower(text)) + "%"
}

// matchesPattern returns the condition that a client's host name, a space and its ID match a
// pattern. They match in upper case and in lower case.
func (s *store) matchesPattern(parameter string) string {
	name := "(hostname || ' ' || client_id)"
	if s.postgres { // SQLite's LIKE disregards the case of ASCII's letters
		name = "lower(" + name + s.collation + ")"
	}
	return name + " LIKE " + parameter + ` ESCAPE '\'`
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > '\x7f' }) < 0
}
