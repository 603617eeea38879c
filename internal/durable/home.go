package durable

import "strings"

// OfUser reports whether a path is in a user's home. Root never opens, follows, reads or
// renames anything there, because that user could redirect it at any moment: only a
// process of the user does.
func OfUser(path string) bool { return strings.HasPrefix(path, "/home/") }
