package gate

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/state"
)

// FuzzReport: whatever a client and the server behind the gate send, what is kept of it is
// bounded and printable, and what the client gets has no directive but the gate's.
func FuzzReport(f *testing.F) {
	const line = `machinemon-update: {"target": "agent", "version": "1.0.0", "result": "committed", "reason": "x"}`
	check, _ := json.Marshal(map[string]string{"output": line})
	f.Add([]byte(`{"hostname": "h", "os": "linux", "arch": "amd64", "client_version": "1", "client_id": "c", "checks": [{"state": `+string(check)+`}]}`), "", []byte(`{"client_id": "d", "update_version": "9"}`))
	f.Add([]byte(`{"client_id": "c", "hostname": "\u202e"}`), line, []byte(`{"Update_x": 1, "client_id": 7, "client_id": "e"}`))
	f.Add([]byte("{\"client_id\": \"\xff\"}"), "x", []byte(`[]`))
	f.Fuzz(func(t *testing.T, request []byte, header string, answer []byte) {
		members := readObject(answer)
		r, ok := parseReport(request, header, members)
		if ok {
			for _, text := range []string{r.ClientID, r.Hostname, r.OS, r.Arch, r.Version, r.Target, r.Result, r.ResultVersion, r.Rejected, r.Lot} {
				if len(text) > 255 || text != state.Printable(text) {
					t.Errorf("kept: %q", text)
				}
			}
			if r.ClientID == "" || strings.ContainsAny(r.Reason, "\r\n\x1b") {
				t.Errorf("kept: %+v", r)
			}
		}
		if members == nil {
			return
		}
		doc, changed := edit(members, []member{{"update_version", json.RawMessage(`"2"`)}})
		var got map[string]json.RawMessage
		if err := json.Unmarshal(doc, &got); err != nil || !changed {
			t.Fatalf("%q: %v", doc, err)
		}
		for key, value := range got {
			if strings.HasPrefix(strings.ToLower(key), "update_") && (key != "update_version" || string(value) != `"2"`) {
				t.Errorf("the client gets %s: %s", key, value)
			}
		}
	})
}

// FuzzSwitch: only the two documents turn the switch.
func FuzzSwitch(f *testing.F) {
	for _, seed := range []string{`{"directives": true}`, `{"directives": false}`, `{"directives": true, "directives": false}`, `{"directives": 1}`, `{"directives": true, "x": 1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		on, err := readSwitch(bytes.NewReader(body))
		if err != nil {
			return
		}
		o, err := manifest.ReadObject(body, maxBody)
		if v, is := o["directives"].(bool); err != nil || !is || v != on || len(o) != 1 {
			t.Errorf("%q turns the switch %v", body, on)
		}
	})
}
