package checkin

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAnnounced(t *testing.T) {
	const notObject = "cannot use the check-in response: it is not a JSON object"
	const notString = "cannot use the check-in response: update_version: must be a string"
	const notVersion = "cannot use the check-in response: update_version: must be 1 to 64 of "
	pad := func(n int) string { return `{"update_version":"v2","x":"` + strings.Repeat("x", n-30) + `"}` }
	for _, c := range []struct{ response, version, err string }{
		{response: `{"client_id":"x","next_checkin_seconds":120,"server_time":"2026-11-01T12:00:00Z"}`},
		{response: `{"client_id":"x","update_version":"v0.1.12","update_url":"https://evil.example/x","update_sha256":7,"update_size":-1}`, version: "v0.1.12"},
		{response: " {\"update_version\" : \"build-17~rc1+x_y\"} \n", version: "build-17~rc1+x_y"},
		{response: `{}`},
		{response: `{"update_version":""}`},
		{response: `{"update_version":null}`},
		{response: `{"UPDATE_VERSION":"v2","Update_version":"v3","update_verſion":"v4"}`},
		{response: `{"x":{"update_version":"v2"},"y":[{"update_version":"v2"}]}`},
		{response: `{"update_version":"v2","update_version":"v3"}`, version: "v3"},
		{response: `{"update_version":"v2"}`, version: "v2"},
		{response: pad(MaxResponse), version: "v2"},
		{response: pad(MaxResponse + 1), err: "cannot use the check-in response: it is larger than 64 KiB"},
		{response: strings.Repeat(" ", 1<<20), err: "cannot use the check-in response: it is larger than 64 KiB"},
		{response: "", err: notObject},
		{response: "null", err: notObject},
		{response: `"v2"`, err: notObject},
		{response: `["update_version"]`, err: notObject},
		{response: `{"update_version":"v2"`, err: notObject},
		{response: `{"update_version":"v2"} x`, err: notObject},
		{response: `{"update_version":"v2"}{"update_version":"v3"}`, err: notObject},
		{response: "<html>502 Bad Gateway</html>", err: notObject},
		{response: strings.Repeat("[", 60000), err: notObject},
		{response: `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, err: notObject},
		{response: "{\"update_version\":\"v2\",\"x\":\"\xff\"}", err: "cannot use the check-in response: it is not valid UTF-8"},
		{response: `{"update_version":17}`, err: notString},
		{response: `{"update_version":["v2"]}`, err: notString},
		{response: `{"update_version":{"v":"2"}}`, err: notString},
		{response: `{"update_version":"../../etc"}`, err: notVersion},
		{response: `{"update_version":"v2\u0000"}`, err: notVersion},
		{response: `{"update_version":"v2\u001b[31m"}`, err: notVersion},
		{response: `{"update_version":"` + strings.Repeat("1", 65) + `"}`, err: notVersion},
	} {
		shown := c.response[:min(len(c.response), 80)]
		version, err := Announced(strings.NewReader(c.response))
		if version != c.version || (err == nil) != (c.err == "") {
			t.Errorf("%s: %q, %v; want %q, %s", shown, version, err, c.version, c.err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%s: %v; want %s", shown, err, c.err)
		}
	}
	_, err := Announced(iotest.ErrReader(errors.New("gone")))
	if err == nil || err.Error() != "cannot read the check-in response: gone" {
		t.Errorf("got %v", err)
	}
	// Announced stops reading once the response is too large.
	endless := &counter{}
	if _, err := Announced(endless); err == nil || endless.n > 1<<20 {
		t.Errorf("%v after %d bytes", err, endless.n)
	}
}

// counter is an endless response.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}
