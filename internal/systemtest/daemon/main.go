// Testd is the daemon that the system tests update. How it behaves is linked
// in, as it would be in a real release:
//
//	go build -ldflags "-X main.version=1.2.0 -X main.behaviour=exit1-at-once"
//
// A good one serves /healthz (and /health) and /version on $TESTD_ADDRESS and tells
// systemd READY=1 once it does. With $TESTD_CHILD it first starts a program that
// outlives it, as a hypervisor's daemon starts virtual machines. Whatever its
// behaviour, --version is answered first.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

var (
	version   = "0.0.0"
	behaviour = "good"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		if behaviour == "version-lies" {
			version = "0.0.0-lie"
		}
		fmt.Printf("testd %s (commit none)\n", version)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testd:", err)
		os.Exit(1)
	}
}

func run() error {
	healthz := http.StatusOK
	switch behaviour {
	case "good", "version-lies":
	case "needs-key": // in its environment, as from an EnvironmentFile=
		if os.Getenv("KEY") == "" {
			return fmt.Errorf("KEY is not set")
		}
	case "exit0-at-once":
		return nil
	case "exit1-at-once":
		return fmt.Errorf("this release exits at once")
	case "exit-after-3s": // well until then
		time.AfterFunc(3*time.Second, func() { os.Exit(1) })
	case "never-listen": // nor READY=1
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		return nil
	case "ignore-sigterm":
		signal.Ignore(syscall.SIGTERM)
	case "answer-500":
		healthz = http.StatusInternalServerError
	case "restart-once", "restart-twice": // to be started again, as after a migration
		if err := restart(map[string]int{"restart-once": 1, "restart-twice": 2}[behaviour]); err != nil {
			return err
		}
	case "silent": // works, and does not say so
	default:
		return fmt.Errorf("no such behaviour: %s", behaviour)
	}

	if child := os.Getenv("TESTD_CHILD"); child != "" {
		if err := exec.Command(child, "infinity").Start(); err != nil {
			return err
		}
	}
	address := os.Getenv("TESTD_ADDRESS")
	if address == "" {
		address = "127.0.0.1:9200"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if err := notifyReady(); err != nil {
		return err
	}
	health := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(healthz)
		fmt.Fprintln(w, `{"status":"ok"}`)
	}
	if behaviour != "silent" {
		fmt.Fprintln(os.Stderr, "testd", version, "is at your service")
	}
	http.HandleFunc("GET /healthz", health)
	http.HandleFunc("GET /health", health)
	http.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, version) })
	return http.Serve(l, nil)
}

// restart exits with 75 in the first n runs of this version on this machine.
func restart(n int) error {
	const dir = "/var/lib/testd"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		marker, err := os.OpenFile(fmt.Sprintf("%s/%s.%d", dir, version, i), os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			marker.Close()
			os.Exit(75)
		}
		if !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// notifyReady does what sd_notify(3) describes, where the unit is Type=notify.
func notifyReady() error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}
