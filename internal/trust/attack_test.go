package trust_test

import (
	"testing"

	"github.com/machinemon/machinemon-update/internal/testkit"
	"github.com/machinemon/machinemon-update/internal/trust/trusttest"
)

// stricter says why go-tuf's client accepts attacks that this package refuses on purpose.
var stricter = map[string]string{
	"300 roots": "it stops after 256, and believes that one",
	"a revoked key after its rotation was seen":        "it begins with the root that it is given, and forgets those that followed",
	"rotation seen, the rest refused, then without it": "as above",
	"a specification to come":                          "it does not look",
	"invalid UTF-8, for the metadata":                  "encoding/json reads U+FFFD, and that is where nothing is signed",
	"lone surrogate, for the metadata":                 "as above",
}

// TestAttacks runs every attack on this package and on go-tuf's own client. Both must
// decide the same where the TUF specification has a rule.
func TestAttacks(t *testing.T) {
	testkit.Slow(t)
	for _, a := range trusttest.Attacks() {
		t.Run(a.Name, func(t *testing.T) {
			m := newMachine(t)
			differed := false
			m.Check = func(want any) {
				t.Helper()
				m.ours(want)
				got, err := m.theirs()
				text, refused := want.(string)
				switch {
				case refused && trusttest.Beyond(text):
				case refused && err == nil && stricter[a.Name] != "":
					differed = true
				case refused != (err != nil):
					t.Errorf("go-tuf's own client disagrees: %d, %v", got, err)
				case err == nil && got != want:
					t.Errorf("go-tuf's own client got %d, want %d", got, want)
				}
			}
			a.Run(m.Repo)
			if !differed && stricter[a.Name] != "" {
				t.Error("go-tuf's own client decides the same by now")
			}
		})
	}
}
