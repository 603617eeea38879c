package gate

import (
	"context"
	"strings"
)

// search calls f for each client of which the host name or the ID contains text, in an
// order, with the time of its last check-in if times is set. It has to read all names: no
// index finds a part of one.
func (s *store) search(ctx context.Context, text string, o order, times bool, f func(id string, class, seen int64)) error {
	text = strings.ToLower(text)
	if clean(text) != text {
		return nil // the names in the database are clean
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	// The databases do not agree on the lower case of other letters than ASCII's, so all names
	// with such letters are compared here.
	condition, args := "(octet_length(hostname || client_id) <> length(hostname || client_id)", []any{}
	if isASCII(text) {
		args = append(args, "%"+strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(text)+"%")
		names := []string{"hostname", "client_id"}
		if strings.Contains(text, " ") {
			names = []string{"(hostname || ' ' || client_id)"}
		}
		for _, name := range names {
			if s.postgres { // SQLite's LIKE disregards the case of ASCII's letters
				name = "lower(" + name + s.collation + ")"
			}
			condition += " OR " + name + ` LIKE $1 ESCAPE '\'`
		}
	}
	column := o.column
	if !s.postgres && column != "hostname" {
		column = "+" + column // the index of host names has both names; most searches find few clients
	}
	seen := "0"
	if times {
		seen = "seen" // it is not in the index of host names
	}
	rows, err := s.db.QueryContext(ctx, "SELECT client_id, hostname, class, "+seen+" FROM clients WHERE "+condition+") ORDER BY "+s.orderBy(column, o.desc), args...)
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
		if strings.Contains(strings.ToLower(host+" "+id), text) {
			f(id, class, seen)
		}
	}
	return rows.Err()
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > '\x7f' }) < 0
}
