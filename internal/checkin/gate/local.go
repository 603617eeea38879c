package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/machinemon/machinemon-update/internal/rollout"
)

// LocalSocket is the path of the socket on which the gate answers local programs.
const LocalSocket = rollout.GateSocket

type peerKey struct{}

// withPeer adds to ctx the user ID of the process at the other end of a local connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			ctx = context.WithValue(ctx, peerKey{}, peer.Uid)
		}
	})
	return ctx
}

// Local returns the handler for the local socket. Each program that can connect may read
// the metrics, the rollout and the switch; only root may turn the switch.
func (g *Gate) Local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", g.metrics)
	mux.HandleFunc("GET /rollout", g.getRollout)
	mux.HandleFunc("GET /settings", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.settingsView()) })
	mux.HandleFunc("PUT /settings", func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerKey{}).(uint32); !ok || uid != 0 {
			http.Error(w, "only root may turn the switch", http.StatusForbidden)
			return
		}
		// The command sends the name of the user that ran sudo.
		by := r.Header.Get("X-Sudo-User")
		if _, err := user.Lookup(by); err != nil {
			by = "root"
		}
		on, err := readSwitch(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			_, err = g.decide(on, by+" on this machine")
		}
		if err != nil {
			http.Error(w, err.Error(), refusal(err))
			return
		}
		reply(w, g.settingsView())
	})
	return mux
}

func (g *Gate) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	enabled := 1
	if g.stopped() {
		enabled = 0
	}
	for _, m := range []struct {
		name, kind, help string
		value            int64
	}{
		{"checkins_total", "counter", "Check-ins that the MachineMon server accepted.", g.count.checkins.Load()},
		{"checkins_refused_total", "counter", "Check-ins that the MachineMon server did not accept.", g.count.refused.Load()},
		{"directives_total", "counter", "Answers to which the gate added a directive.", g.count.directives.Load()},
		{"directives_enabled", "gauge", "1 while directives are on, 0 while updates are stopped.", int64(enabled)},
		{"downloads_total", "counter", "Downloads from the gate's download directory.", g.count.downloads.Load()},
		{"reports_dropped_total", "counter", "Reports of clients that could not be written to the database.", g.count.dropped.Load()},
		{"admin_denied_total", "counter", "Requests with credentials that the MachineMon server did not accept.", g.count.denied.Load()},
	} {
		fmt.Fprintf(w, "# HELP machinemon_checkin_gate_%s %s\n# TYPE machinemon_checkin_gate_%s %s\nmachinemon_checkin_gate_%s %d\n",
			m.name, m.help, m.name, m.kind, m.name, m.value)
	}
}

// Switch asks the gate at this socket for the state of its switch, and returns it as
// text. If to is "on" or "off", it turns the switch first, in the name of sudoUser. It waits
// for the answer until ctx ends.
func Switch(ctx context.Context, socket, to, sudoUser string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	method, body := http.MethodGet, ""
	if to != "" {
		method, body = http.MethodPut, `{"directives": `+strconv.FormatBool(to == "on")+`}`
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://gate/settings", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	q.Header.Set("X-Sudo-User", sudoUser)
	resp, err := client.Do(q)
	if err != nil {
		return "", rollout.Unreachable(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", fmt.Errorf("cannot read the gate's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("cannot change the settings: %s", bytes.TrimSpace(data))
	}
	var v settingsView
	if err := json.Unmarshal(data, &v); err != nil {
		return "", fmt.Errorf("cannot read the gate's answer: %w", err)
	}
	return v.String(), nil
}

func (v settingsView) String() string {
	text := "directives are " + onOff(v.Directives)
	if v.ChangedAt != nil {
		text += " since " + v.ChangedAt.Local().Format("2006-01-02 15:04") + ", by " + v.ChangedBy
	}
	if v.StopSigned != "" {
		text += "\nclients that trust signatures are stopped by the publisher: " + v.StopSigned
	}
	return text + "\n"
}
