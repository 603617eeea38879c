package testkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Load makes load read a file of this name and text. If load fails, its error must name the file.
func Load[T any](t testing.TB, load func(path string) (T, error), name, text string) (T, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	Put(t, path, text)
	got, err := load(path)
	if err != nil && !strings.HasPrefix(err.Error(), "cannot use "+path+": ") {
		t.Errorf("the error is %v", err)
	}
	return got, err
}

// Shipped returns the configuration in packaging/checkin of a program. It fails the test
// unless that file and the program's manual page show each of the keys.
func Shipped(t testing.TB, program string, keys []string) string {
	t.Helper()
	const packaging = "../../../packaging/"
	shipped, err := os.ReadFile(packaging + "checkin/" + program + ".toml")
	Must(t, err)
	manual, err := os.ReadFile(packaging + "man/machinemon-" + program + ".8")
	Must(t, err)
	for _, key := range keys {
		if !strings.Contains(string(shipped), "\n#"+key+" = ") || !strings.Contains(string(manual), "\n"+key+"\t") {
			t.Errorf("%s is not shown", key)
		}
	}
	return string(shipped)
}
