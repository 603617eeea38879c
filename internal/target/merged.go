package target

// A position is where a key was written.
type position struct {
	file  string
	line  int
	order int // of the file; a higher one overrides a lower one
}

// merged is what all fragments of a target say together, and where each key's
// value was written. Paths of keys are as in "install[1].to".
type merged struct {
	keys  fragment
	where map[string]position
}

// add overrides what is there with the next higher fragment. Positions of a
// list that it replaces may stay behind, but only of keys that the new list
// does not have.
func (m *merged) add(f *fragment, lines map[string]int, file string, order int) {
	m.keys.merge(f)
	for path, line := range lines {
		m.where[path] = position{file, line, order}
	}
}
