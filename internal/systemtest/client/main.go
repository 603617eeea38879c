// Client stands in for machinemon-client v0.1.11 as far as updates need it: its
// configuration, its check-ins, and its output of the version. Its version and its
// behaviour are linked in, as in package daemon:
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
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pelletier/go-toml/v2"
)

var (
	version   = "v0.0.0"
	behaviour = "good"
)

type config struct {
	ClientID        string `toml:"client_id"`
	ServerURL       string `toml:"server_url"`
	Password        string `toml:"password"`
	CheckInInterval int    `toml:"check_in_interval"`
	InsecureSkipTLS bool   `toml:"insecure_skip_tls"`
	Checks          []struct {
		Type         string `toml:"type"`
		FriendlyName string `toml:"friendly_name"`
		ScriptPath   string `toml:"script_path"`
	} `toml:"check"`
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("machinemon %s (commit none, built never)\n", version)
		return
	}
	if behaviour == "exit1-at-once" {
		log.Fatal("this release exits at once")
	}
	log.Fatal(run())
}

// run checks in repeatedly until an error ends it.
func run() error {
	path := "/etc/machinemon/client.toml"
	if home := os.Getenv("HOME"); home != "" {
		path = filepath.Join(home, ".config/machinemon/client.toml")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c := config{CheckInInterval: 120}
	if err := toml.Unmarshal(data, &c); err != nil {
		return err
	}
	if behaviour == "wrong-password" { // it stays up, but the server rejects its check-ins
		c.Password += "?"
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: c.InsecureSkipTLS}}}
	for ; ; time.Sleep(time.Duration(c.CheckInInterval) * time.Second) {
		id, err := c.checkIn(client)
		if err != nil {
			log.Printf("check-in failed: %v", err)
			continue
		}
		log.Print("check-in successful")
		if id != c.ClientID {
			c.ClientID = id
			if err := os.WriteFile(path, fmt.Appendf(nil, "client_id = %q\n%s", id, data), 0o600); err != nil {
				return err
			}
			log.Print("saved client_id to config")
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
