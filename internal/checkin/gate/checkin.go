package gate

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/machinemon/machinemon-update/internal/checkin"
	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/state"
)

const (
	// maxRequest is the size in bytes of the largest check-in that the gate parses.
	maxRequest = 1 << 20
	// smallCheckin is the size up to which there is always room to keep a check-in. Most
	// are a few KiB.
	smallCheckin = 32 << 10
	// maxSpare limits what all larger check-ins together hold beyond that. Above it they
	// pass without a report and a directive.
	maxSpare = 16 << 20
)

// capturedBody is a request's body that keeps a copy of what was read, to be parsed when
// upstream has accepted it. It has a lock because the transport may still read then.
type capturedBody struct {
	io.ReadCloser
	length int64         // of the body in bytes; -1: not announced
	spare  *atomic.Int64 // of all check-ins

	mu    sync.Mutex
	data  []byte
	taken int64 // part of spare
	over  bool  // too large, or there is no room for it
	whole bool
}

func (c *capturedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && !c.keep(p[:n]) {
		c.over, c.data = true, nil
		c.giveBack()
	}
	c.whole = c.whole || err == io.EOF || int64(len(c.data)) == c.length
	return n, err
}

// keep appends to the copy. It returns false if the check-in is too large, or if large
// check-ins hold maxSpare already: they are not authenticated yet.
func (c *capturedBody) keep(p []byte) bool {
	size := int64(len(c.data) + len(p))
	if size > maxRequest {
		return false
	}
	if more := size - smallCheckin - c.taken; more > 0 {
		c.taken += more
		if c.spare.Add(more) > maxSpare {
			return false
		}
	}
	c.data = append(c.data, p...)
	return true
}

func (c *capturedBody) giveBack() {
	c.spare.Add(-c.taken)
	c.taken = 0
}

// release drops the copy: the check-in was answered.
func (c *capturedBody) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.data = true, nil
	c.giveBack()
}

// bytes returns the body, or nil if it was not read to its end or is too large.
func (c *capturedBody) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.whole || c.over {
		return nil
	}
	return c.data
}

// modify reads upstream's answer. If it accepts a check-in, modify queues the client's
// report and puts the gate's directive into the answer.
func (g *Gate) modify(resp *http.Response) error {
	if resp.StatusCode < 100 { // with it, ReverseProxy would panic
		return fmt.Errorf("malformed HTTP status code %03d", resp.StatusCode)
	}
	g.problems.End("upstream", "the MachineMon server answers again")
	if here, ok := resp.Request.Context().Value(installerKey{}).(string); ok && resp.StatusCode == http.StatusOK {
		return g.leadHere(resp, here)
	}
	c, ok := resp.Request.Context().Value(checkinKey{}).(*pendingCheckin)
	if !ok {
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		g.count.refused.Add(1)
		g.explain(resp)
		return nil
	}
	g.problems.End("check-ins", "the MachineMon server takes check-ins again")
	g.count.checkins.Add(1)
	head, err := checkin.PeekBody(resp)
	if err != nil && len(head) == 0 {
		return err // the client gets 502, since it has got nothing yet
	}
	if err != nil {
		return nil // the client gets the beginning, and sees that the rest is missing
	}
	body, _ := plainText(resp, head)
	members := readObject(body)
	r, ok := parseReport(c.body.bytes(), resp.Request.Header.Get(checkin.StatusHeader), members)
	if !ok {
		return nil
	}
	r.Seen = g.now().UTC()
	var directive []member
	if m := g.release(); m != nil && members != nil {
		if directive = g.directive(m, r, c.base); len(directive) > 0 {
			r.Told = m.Version
		}
	}
	g.queueReport(r)
	if members == nil {
		return nil
	}
	edited, changed := edit(members, directive)
	if !changed {
		return nil
	}
	replaceBody(resp, edited)
	return nil
}

// explain logs why upstream takes no check-ins, if that is not the client's fault alone.
func (g *Gate) explain(resp *http.Response) {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		g.problems.Begin("check-ins", fmt.Sprintf("the MachineMon server answers %d to a check-in: it is not at %s (hint: check upstream and base_path)",
			resp.StatusCode, g.config.Upstream))
	case http.StatusTooManyRequests:
		from, hint := resp.Request.Header.Get("X-Real-Ip"), "see LIMITS in machinemon-checkin-gate(8)"
		if a, err := netip.ParseAddr(from); err == nil && a.IsLoopback() {
			hint = "set trusted_proxies to the web server on this machine"
		}
		g.problems.Begin("limit", fmt.Sprintf("the MachineMon server refuses check-ins of %s: more than 30 a minute come from this address (hint: %s)", from, hint))
	}
}

// parseReport reads a client's report. The ID in upstream's answer takes precedence over
// the request's, and a relay's header, which is newer, over the output of a check.
func parseReport(request []byte, header string, answer []member) (r report, ok bool) {
	var in struct {
		Hostname string `json:"hostname"`
		OS       string `json:"os"`
		Arch     string `json:"arch"`
		Version  string `json:"client_version"`
		ClientID string `json:"client_id"`
		Checks   []struct {
			State json.RawMessage `json:"state"`
		} `json:"checks"`
	}
	if !utf8.Valid(request) || json.Unmarshal(request, &in) != nil {
		return r, false
	}
	for _, m := range answer {
		var id string
		if m.key == "client_id" && json.Unmarshal(m.value, &id) == nil && id != "" {
			in.ClientID = id
		}
	}
	if in.ClientID == "" || len(in.ClientID) > 128 || in.ClientID != state.Printable(in.ClientID) {
		return r, false
	}
	r = report{ClientID: in.ClientID, Hostname: short(in.Hostname), OS: name(in.OS), Arch: name(in.Arch), Version: name(in.Version)}
	s, found := checkin.ParseHeader(header)
	for _, c := range in.Checks {
		if found {
			break
		}
		s, found = status(c.State)
	}
	if found {
		r.Target, r.Result, r.ResultVersion, r.Rejected = name(s.Target), short(s.Result), name(s.Version), name(s.Rejected)
		r.Reason, r.Held = state.Line(s.Reason), s.Held
		if rollout.ValidID(s.Lot) {
			r.Lot = s.Lot
		}
		if s.Time != nil {
			r.Attempted = *s.Time
		}
	}
	return r, true
}

// status finds a status line in the state of a check, which is JSON inside a string.
func status(raw json.RawMessage) (checkin.Status, bool) {
	if !checkin.MayHaveStatus(raw) { // as most checks, which are parsed no further
		return checkin.Status{}, false
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	var s struct {
		Output string `json:"output"`
	}
	if json.Unmarshal(raw, &s) != nil {
		return checkin.Status{}, false
	}
	return checkin.ParseStatus(s.Output)
}

// short returns the first 255 bytes of s, printable.
func short(s string) string {
	return state.Printable(strings.ToValidUTF8(s[:min(len(s), 255)], ""))
}

// name returns s if it is a valid name, such as a version, else "".
func name(s string) string {
	if !manifest.ValidName(s) {
		return ""
	}
	return s
}
