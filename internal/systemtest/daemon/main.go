// Testd is the daemon that the system tests update. Its version and its behaviour are
// linked in, as the version of a real release is:
//
//	go build -ldflags "-X main.version=1.2.0 -X main.behaviour=exit1-at-once"
//
// A good one serves /healthz (and /health), /version, /private, which needs a password, and
// gRPC's health service on $TESTD_ADDRESS and then sends systemd READY=1. With $TESTD_TLS
// it serves the same there by https, with a certificate that no authority has signed,
// which it also writes to $TESTD_CERT, and with $TESTD_SOCKET on that Unix socket. Sockets that
// systemd opened (LISTEN_FDS) take the place of both. With $TESTD_CHILD it first starts a program that outlives
// it, as a hypervisor's daemon starts virtual machines. At SIGHUP it executes its file
// again, if $TESTD_RELOAD is "exec", or starts it as the new main process, if that is
// "fork"; if that is "ignore", nothing happens. It answers --version in each behaviour.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	version   = "0.0.0"
	behaviour = "good"
)

func main() {
	// A test stamps both into a linked program, and NUL bytes fill the rest of the place.
	version, behaviour = strings.TrimRight(version, "\x00"), strings.TrimRight(behaviour, "\x00")
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		if behaviour == "version-lies" || behaviour == "fills-tmp" && filled() > 64<<20 {
			version = "0.0.0-lie"
		}
		if behaviour == "stops-runner" {
			syscall.Kill(os.Getppid(), syscall.SIGSTOP) // PID 1, in a pre-flight, takes no signal
		}
		if behaviour == "hungry" && os.Getppid() != 1 {
			syscall.Mmap(-1, 0, 1200<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
		}
		name := filepath.Base(os.Args[0])
		if strings.HasPrefix(name, "machinemon-") { // the prefix that MachineMon's programs use
			name, _, _ = strings.Cut(name, "-")
		}
		switch behaviour {
		case "says-name": // as CoreDNS does
			fmt.Printf("Testd-%s\nlinux/amd64, go1.22.2, a7ed346\n", version)
			return
		case "says-library-first":
			fmt.Printf("libtest 3.2.1\ntestd build %s\n", version)
			return
		case "says-usage":
			fmt.Fprintln(os.Stderr, "usage: testd [-v]")
			os.Exit(2)
		}
		fmt.Printf("%s %s (commit none)\n", name, version)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testd:", err)
		os.Exit(1)
	}
}

// filled fills the temporary directories, up to a limit, and returns how many bytes fit.
func filled() (bytes int) {
	const most, size = 256 << 20, 1 << 19
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		for n := 0; bytes < most; n++ {
			if err := os.WriteFile(fmt.Sprintf("%s/fill-%d", dir, n), make([]byte, size), 0o600); err != nil {
				break
			}
			bytes += size
		}
	}
	return bytes
}

func run() error {
	healthz := func() int { return http.StatusOK }
	switch behaviour {
	case "says-name", "says-library-first", "says-usage": // good, apart from --version
	case "good", "version-lies", "fills-tmp", "stops-runner", "hungry": // the last three fill all temporary directories, stop their parent, or take memory outside a pre-flight, when they are asked for their version
	case "needs-key": // fails without a variable in its environment, as from an EnvironmentFile=
		if os.Getenv("KEY") == "" {
			return fmt.Errorf("KEY is not set")
		}
	case "needs-host-ip": // fails and says why after many other lines, in colour
		for i := range 7 {
			fmt.Println("starting", i)
		}
		fmt.Println("\x1b[1;31mFATAL\x1b[0m: HOST_IP not set")
		os.Exit(1)
	case "says-goodbye": // good, but logs a line when it is stopped
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			fmt.Println("goodbye from", version)
			os.Exit(0)
		}()
	case "exit0-at-once":
		return nil
	case "exit1-at-once":
		return fmt.Errorf("this release exits at once")
	case "exit-after-2s": // good until then, and so is the next one
		time.AfterFunc(2*time.Second, func() { os.Exit(1) })
	case "exit-after-3s":
		time.AfterFunc(3*time.Second, func() { os.Exit(1) })
	case "never-listen": // sends no READY=1 either
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		return nil
	case "ready-after-6s":
		time.Sleep(6 * time.Second)
	case "ignore-sigterm":
		signal.Ignore(syscall.SIGTERM)
	case "answer-500":
		healthz = func() int { return http.StatusInternalServerError }
	case "clings": // unhealthy, and when it is stopped it asks systemd for more time, again and again
		healthz = func() int { return http.StatusInternalServerError }
		signal.Ignore(syscall.SIGTERM)
		go func() {
			for range time.Tick(time.Second) {
				notify("EXTEND_TIMEOUT_USEC=5000000")
			}
		}()
	case "ill-on-demand": // unhealthy while the file exists
		healthz = func() int {
			if _, err := os.Stat("/run/testd-ill"); err == nil {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		}
	case "restart-once", "restart-twice": // exits so that systemd starts it again, as after a migration
		if err := restart(map[string]int{"restart-once": 1, "restart-twice": 2}[behaviour]); err != nil {
			return err
		}
	case "silent": // works, but does not log that it is ready
	default:
		return fmt.Errorf("no such behaviour: %s", behaviour)
	}

	if child := os.Getenv("TESTD_CHILD"); child != "" {
		if err := exec.Command(child, "infinity").Start(); err != nil {
			return err
		}
	}
	listeners, err := listen()
	if err != nil {
		return err
	}
	if err := notify("READY=1"); err != nil {
		return err
	}
	health := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(healthz())
		fmt.Fprintln(w, `{"status":"ok"}`)
	}
	if behaviour != "silent" {
		fmt.Fprintln(os.Stderr, "testd", version, "is at your service")
	}
	http.HandleFunc("GET /healthz", health)
	http.HandleFunc("GET /health", health)
	http.HandleFunc("GET /private", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "probe" || password != "hunter2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	http.HandleFunc("POST /grpc.health.v1.Health/Check", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 8, 1}) // SERVING
		w.Header().Set("Grpc-Status", "0")
	})
	http.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, version) })
	if address := os.Getenv("TESTD_TLS"); address != "" {
		if err := serveTLS(address); err != nil {
			return err
		}
	}
	server := &http.Server{Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	if how := os.Getenv("TESTD_RELOAD"); how != "" {
		reloadable(how, listeners)
	}
	ended := make(chan error)
	for _, l := range listeners {
		go func() {
			if err := server.Serve(l); !errors.Is(err, net.ErrClosed) { // else it is reloaded
				ended <- err
			}
		}()
	}
	return <-ended
}

// reloadable makes the daemon become what its file is at SIGHUP.
func reloadable(how string, listeners []net.Listener) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			if how == "ignore" {
				continue
			}
			for _, l := range listeners {
				l.Close()
			}
			if how == "exec" {
				fmt.Fprintln(os.Stderr, syscall.Exec(os.Args[0], os.Args, os.Environ()))
				os.Exit(1)
			}
			next := exec.Command(os.Args[0])
			err := next.Start()
			if err == nil {
				err = notify(fmt.Sprintf("MAINPID=%d", next.Process.Pid))
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}()
}

// listen opens the sockets, or takes those that systemd has opened.
func listen() (all []net.Listener, err error) {
	if n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")); n > 0 {
		for i := range n {
			l, err := net.FileListener(os.NewFile(uintptr(3+i), "socket")) // sd_listen_fds(3)
			if err != nil {
				return nil, err
			}
			all = append(all, l)
		}
		return all, nil
	}
	address := os.Getenv("TESTD_ADDRESS")
	if address == "" {
		address = "127.0.0.1:9200"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	all = append(all, l)
	if path := os.Getenv("TESTD_SOCKET"); path != "" {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) { // of an earlier run
			return nil, err
		}
		if l, err = net.Listen("unix", path); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// serveTLS serves in the background.
func serveTLS(address string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testd"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if file := os.Getenv("TESTD_CERT"); file != "" {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			return err
		}
	}
	l, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		return err
	}
	go http.Serve(l, nil)
	return nil
}

// restart exits with status 75 in the first n runs of this version on this machine.
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

// notify sends systemd a message as sd_notify(3) describes, if the unit is Type=notify.
func notify(message string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(message))
	return err
}
