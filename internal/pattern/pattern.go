// Package pattern has regular expressions that are compiled when they are used first. Each
// step of an update is a process of its own and uses few of them: to compile all of them
// took as long as the rest of its start.
package pattern

import (
	"regexp"
	"sync"
)

// A Pattern is a regular expression. Its methods panic if the expression is not valid.
type Pattern struct{ compiled func() *regexp.Regexp }

// New returns the pattern of a regular expression, without a look at it.
func New(expression string) *Pattern {
	return &Pattern{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })}
}

// MatchString is [regexp.Regexp.MatchString].
func (p *Pattern) MatchString(s string) bool { return p.compiled().MatchString(s) }

// FindStringSubmatch is [regexp.Regexp.FindStringSubmatch].
func (p *Pattern) FindStringSubmatch(s string) []string { return p.compiled().FindStringSubmatch(s) }

// ReplaceAllString is [regexp.Regexp.ReplaceAllString].
func (p *Pattern) ReplaceAllString(s, replacement string) string {
	return p.compiled().ReplaceAllString(s, replacement)
}
