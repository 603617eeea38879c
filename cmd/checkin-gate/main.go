// Checkin-gate runs in machinemon-checkin-gate.service: it passes requests on to a
// MachineMon server, and tells its clients of updates. "checkin-gate directives" shows
// or turns the switch of the running gate.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/machinemon/machinemon-update/internal/checkin/gate"
)

const usage = "usage: checkin-gate directives [on|off]\n(machinemon-checkin-gate.service runs it without arguments)"

// patience is how long the switch waits for a gate that is just starting, or cannot start.
const patience = 10 * time.Second

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = serve()
	case args[0] == "directives" && (len(args) == 1 || len(args) == 2 && (args[1] == "on" || args[1] == "off")):
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var state string
		state, err = gate.Switch(ctx, gate.LocalSocket, strings.Join(args[1:], ""), os.Getenv("SUDO_USER"))
		fmt.Print(state)
	case args[0] == "-h" || args[0] == "--help":
		fmt.Println(usage)
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "checkin-gate: %v\n", err)
		os.Exit(1)
	}
}

func serve() error {
	listeners, err := activation.ListenersWithNames()
	if err != nil {
		return fmt.Errorf("cannot take systemd's sockets: %w", err)
	}
	public, local := listeners["public"], listeners["local"]
	if len(public) == 0 {
		return errors.New("cannot serve without a socket (hint: sudo systemctl restart machinemon-checkin-gate.socket)")
	}
	config, err := gate.Load(gate.ConfigFile)
	if err != nil {
		return err
	}
	for _, w := range config.Warnings {
		fmt.Fprintf(os.Stderr, "checkin-gate: warning: %s\n", w)
	}
	g := gate.New(config, func(line string) { fmt.Fprintln(os.Stderr, line) })
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	const keepEnvironment = false
	daemon.SdNotify(keepEnvironment, daemon.SdNotifyReady) // does nothing outside a unit
	return g.Serve(ctx, public, local)
}
