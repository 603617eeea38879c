package testkit

import (
	"fmt"
	"os"

	"go.uber.org/goleak"
)

// NoLeaks is called after the tests of a package, with their exit status. It returns that
// of the package: 1 if goroutines go on that the tests, or the code that they test, should
// have ended. On a busy machine some take seconds to end.
func NoLeaks(status int) int {
	var err error
	for range 10 {
		if err = goleak.Find(); err == nil {
			return status
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return max(status, 1)
}
