package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"
)

// GateSocket is the path of the socket on which the gate answers local programs.
const GateSocket = "/run/machinemon-checkin-gate.socket"

// Ask asks the gate at a socket for the counts of a plan.
func (p *Plan) Ask(socket string) (Counts, error) {
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
	resp, err := c.Get("http://gate/rollout")
	if err != nil {
		return Counts{}, Unreachable(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return Counts{}, fmt.Errorf("cannot read the gate's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return Counts{}, fmt.Errorf("the gate cannot count the clients: %.500s", bytes.TrimSpace(data))
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return Counts{}, fmt.Errorf("cannot read the gate's answer: %w", err)
	}
	if s.Version != p.Version || s.Sequence != p.Sequence || !s.Started.Equal(p.Started) {
		return Counts{}, fmt.Errorf("the gate has another rollout, of %.64q, sequence %d (hint: download_dir of the gate must be the directory of this release)", s.Version, s.Sequence)
	}
	return s.Counts, nil
}

// Unreachable explains why a request to the gate's socket got no answer.
func Unreachable(err error) error {
	cause, hint := errors.Unwrap(err), "sudo systemctl start machinemon-checkin-gate-local.socket"
	if errors.Is(err, fs.ErrPermission) {
		hint = "ask as root, or set SocketUser= of machinemon-checkin-gate-local.socket"
	}
	if errors.Is(err, context.DeadlineExceeded) { // its socket waits for a gate that does not start
		cause, hint = errors.New("it does not answer, and may still do what it was asked when it starts"), "systemctl status machinemon-checkin-gate.service says why"
	}
	return fmt.Errorf("cannot reach the gate: %w (hint: %s)", cause, hint)
}
