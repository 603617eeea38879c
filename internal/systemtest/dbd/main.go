// Dbd is the test daemon with data: an SQLite database in $DBD_DIR to which it writes all
// the time, and a configuration file, $DBD_CONFIG, that it writes when it stops. Its
// version and its behaviour are linked in, as in package daemon:
//
//	go build -ldflags "-X main.version=2.0.0 -X main.behaviour=answer-500"
//
// The major version is also the database's. A program does not start with a newer
// database; it migrates an older one, and leaves more files beside it. It notes each row
// that it has committed in $DBD_ACKS, as a client would that got an answer: version, id
// and token. /integrity lists rows that a program of this version has acknowledged and
// that are not in the database.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

var (
	version   = "0.0.0"
	behaviour = "good"
)

func main() {
	// A test stamps both into a linked program, and NUL bytes fill the rest of the place.
	version, behaviour = strings.TrimRight(version, "\x00"), strings.TrimRight(behaviour, "\x00")
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("testd %s (commit none)\n", version)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	healthz, closes := http.StatusOK, true
	dir := os.Getenv("DBD_DIR")
	switch behaviour {
	case "good":
	case "answer-500", "exit-migrated":
		healthz = http.StatusInternalServerError
	case "never-close": // leaves its write-ahead log beside the database
		closes = false
	case "plant-links": // puts symbolic links in the places of its data, and answers 500
		healthz = http.StatusInternalServerError
	default:
		return fmt.Errorf("no such behaviour: %s", behaviour)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	s, err := open(dir, os.Getenv("DBD_ACKS"))
	if err != nil {
		return err
	}
	switch behaviour {
	case "exit-migrated":
		return errors.New("FATAL: this release exits once it has migrated")
	case "plant-links":
		if err := plant(dir); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:9200")
	if err != nil {
		return err
	}
	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(healthz) })
	http.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, version) })
	http.HandleFunc("GET /integrity", func(w http.ResponseWriter, r *http.Request) {
		seen, err := s.look()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		json.NewEncoder(w).Encode(seen)
	})
	failed := make(chan error, 2)
	go func() { failed <- http.Serve(l, nil) }()
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := s.write(stop); err != nil {
			failed <- err
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-written: // the last row is written
	}
	if path := os.Getenv("DBD_CONFIG"); path != "" {
		if err := os.WriteFile(path, []byte("the last words of "+version+"\n"), 0o644); err != nil {
			return err
		}
	}
	if !closes {
		return nil
	}
	return s.db.Close()
}

func major(version string) (int, error) {
	m, _, _ := strings.Cut(version, ".")
	return strconv.Atoi(m)
}

// plant makes links in dir that lead programs to files that only root may read and write.
func plant(dir string) error {
	var failed error
	for name, leads := range map[string]string{
		"shadow": "/etc/shadow", "sub": "/etc/roots", "testd.db-journal": "/etc/shadow", "blobs/1": "/etc/roots/file",
		".machinemon-update": "/etc/roots",
	} {
		path := filepath.Join(dir, name)
		failed = errors.Join(failed, os.MkdirAll(filepath.Dir(path), 0o755), os.RemoveAll(path), os.Symlink(leads, path))
	}
	return failed
}
