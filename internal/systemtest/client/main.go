// Client stands in for machinemon-client v0.1.11 as far as updates need it: its flags, its
// configuration, its unit, its check-ins, and its output of the version. Its version and
// its behaviour are linked in, as in package daemon:
//
//	go build -ldflags "-X main.version=v0.1.12 -X main.behaviour=exit1-at-once"
//
// Its measurements are constant, so that check-ins can be compared.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

var (
	version   = "v0.0.0"
	behaviour = "good"
)

// measuring is how long the agent measures the processor's load before each check-in.
const measuring = 1200 * time.Millisecond

func main() {
	// A test stamps both into a linked program, and NUL bytes fill the rest of the place.
	version, behaviour = strings.TrimRight(version, "\x00"), strings.TrimRight(behaviour, "\x00")
	path := flag.String("config", defaultPath(), "")
	server := flag.String("server", "", "")
	pass := flag.String("password", "", "")
	noDaemon := flag.Bool("no-daemon", false, "")
	serviceInstall := flag.Bool("service-install", false, "")
	showVersion := flag.Bool("version", false, "")
	flag.Parse()
	if *showVersion {
		fmt.Printf("machinemon %s (commit none, built never)\n", version)
		return
	}
	if *serviceInstall {
		if err := installService(*path); err != nil {
			log.Fatal(err)
		}
		return
	}
	if behaviour == "exit1-at-once" {
		log.Fatal("this release exits at once")
	}
	if err := run(*path, *server, *pass, *noDaemon); err != nil {
		slog.Error("failed to load config", "path", *path, "err", err)
		os.Exit(1)
	}
}

// run loads the configuration, changes and saves it if flags say so, and checks in
// repeatedly unless noDaemon is set.
func run(path, server, pass string, noDaemon bool) error {
	c, err := load(path)
	if err != nil {
		return err
	}
	if server != "" {
		c.ServerURL = server
	}
	if pass != "" {
		c.Password = pass
	}
	if c.ServerURL == "" || c.Password == "" {
		fmt.Println("MachineMon Client is not configured.")
		os.Exit(1)
	}
	if server != "" || pass != "" {
		if err := c.save(path); err != nil {
			return err
		}
	}
	if noDaemon {
		return nil
	}
	if behaviour == "wrong-password" { // it stays up, but the server rejects its check-ins
		c.Password += "?"
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: c.InsecureSkipTLS}}}
	for ; ; time.Sleep(time.Duration(c.CheckInInterval) * time.Second) {
		time.Sleep(measuring)
		id, err := c.checkIn(client)
		if err != nil {
			slog.Error("check-in failed", "err", err)
			continue
		}
		slog.Info("check-in successful", "client_id", id)
		if c.ClientID == "" && id != "" {
			c.ClientID = id
			if err := c.save(path); err != nil {
				slog.Error("failed to save config with client_id", "err", err)
				continue
			}
			slog.Info("saved client_id to config", "client_id", id)
		}
	}
}

type check struct {
	FriendlyName string `json:"friendly_name"`
	CheckType    string `json:"check_type"`
	Healthy      bool   `json:"healthy"`
	Message      string `json:"message"`
	State        string `json:"state"`
}

func (c *config) checkIn(client *http.Client) (id string, err error) {
	hostname, err := os.Hostname()
	if err != nil {
		return "", err
	}
	checks := []check{}
	for _, k := range c.Checks {
		checks = append(checks, script(k.FriendlyName, k.ScriptPath))
	}
	body, err := json.Marshal(struct {
		Hostname      string         `json:"hostname"`
		OS            string         `json:"os"`
		Arch          string         `json:"arch"`
		ClientVersion string         `json:"client_version"`
		ClientID      string         `json:"client_id"`
		SessionID     string         `json:"session_id"`
		BootTimeUnix  int64          `json:"boot_time_unix"`
		InterfaceIPs  []string       `json:"interface_ips"`
		Metrics       map[string]any `json:"metrics"`
		Processes     []string       `json:"processes"`
		Checks        []check        `json:"checks"`
	}{hostname, runtime.GOOS, runtime.GOARCH, version, c.ClientID, "0b7c", 1793500000, []string{"192.0.2.7"},
		map[string]any{"cpu_pct": 3.1, "mem_pct": 41.5, "mem_total_bytes": 8254390272}, []string{}, checks})
	if err != nil {
		return "", err
	}
	q, err := http.NewRequest(http.MethodPost, c.ServerURL+"/api/v1/checkin", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Client-Password", c.Password)
	resp, err := client.Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the server answers %s", resp.Status)
	}
	var in struct {
		ClientID           string    `json:"client_id"`
		NextCheckinSeconds int       `json:"next_checkin_seconds"`
		ServerTime         time.Time `json:"server_time"`
	}
	return in.ClientID, json.Unmarshal(answer, &in)
}

// script runs a check and keeps the last 500 bytes of its output.
func script(name, line string) check {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	out, err := cmd.CombinedOutput()
	out = out[max(0, len(out)-500):]
	message := "ok"
	if err != nil {
		message = err.Error()
	}
	state, _ := json.Marshal(struct { // strings and a number, which always marshal
		ScriptPath string `json:"script_path"`
		RunAsUser  string `json:"run_as_user"`
		ExitCode   int    `json:"exit_code"`
		Output     string `json:"output"`
	}{line, "", cmd.ProcessState.ExitCode(), string(out)})
	return check{name, "script", err == nil, message, string(state)}
}
