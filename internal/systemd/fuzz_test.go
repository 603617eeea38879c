package systemd

import "testing"

// FuzzParseLog: what a daemon writes to its journal, which is in the messages, never
// makes a reader of it die or loop.
func FuzzParseLog(f *testing.F) {
	for _, seed := range []string{`{"MESSAGE":"x","__MONOTONIC_TIMESTAMP":"1"}` + "\n", `{"MESSAGE":[1,2,255],"_PID":"4294967296","__MONOTONIC_TIMESTAMP":"-1"}`,
		`{"MESSAGE":["a",[1],["b",["c"]],null],"__MONOTONIC_TIMESTAMP":"9223372036854775807"}`, `{"MESSAGE":`, `[]`, `null null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if lines := parseLog(doc); len(lines) > len(doc) {
			t.Errorf("%d lines in %d bytes", len(lines), len(doc))
		}
	})
}
