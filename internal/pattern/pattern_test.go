package pattern

import (
	"reflect"
	"testing"
)

func TestPattern(t *testing.T) {
	p := New(`^([a-z]+)-([0-9]+)$`)
	if !p.MatchString("a-1") || p.MatchString("a1") {
		t.Error("MatchString")
	}
	if got := p.FindStringSubmatch("ab-12"); !reflect.DeepEqual(got, []string{"ab-12", "ab", "12"}) {
		t.Errorf("FindStringSubmatch: %q", got)
	}
	if got := p.ReplaceAllString("ab-12", "$2"); got != "12" {
		t.Errorf("ReplaceAllString: %q", got)
	}
}

// TestLate: an expression is not compiled before it is used.
func TestLate(t *testing.T) {
	p := New(`(`)
	defer func() {
		if recover() == nil {
			t.Error("the expression was not compiled")
		}
	}()
	p.MatchString("")
}
