package gate

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
)

var fleetSize = flag.Int("fleet", 1_000_000, "how many `clients` are in the database of BenchmarkPage")

// BenchmarkCheck measures what a client's look for a release costs a static server, and the
// gate: a conditional request on a connection of its own, which is answered "not modified".
// cpu-ms/s is the server's CPU time in each second in which 1,000 clients look. "signed"
// downloads the manifest, as a client that trusts signatures does with a file that is about
// as long.
func BenchmarkCheck(b *testing.B) {
	const atOnce = 64
	dir := downloadDir(b)
	for _, to := range []struct {
		name, path string
		*process
	}{
		{"static", "/client-manifest.json", start(b, "files", "DIR="+dir)},
		{"gate, " + kind, "/download/client-manifest.json", gateBefore(b, start(b, "upstream").url)},
	} {
		for _, signed := range []bool{false, true} {
			name, status := to.name+"/not modified", http.StatusNotModified
			if signed {
				name, status = to.name+"/signed", http.StatusOK
			}
			b.Run(name, func(b *testing.B) {
				tag := ""
				if !signed {
					resp, err := http.Get(to.url + to.path)
					if err != nil {
						b.Fatal(err)
					}
					resp.Body.Close()
					tag = resp.Header.Get("ETag")
				}
				var n, bytes atomic.Int64
				took := make([]time.Duration, b.N)
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true,
					DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
						c, err := new(net.Dialer).DialContext(ctx, network, address)
						return countedConn{c, &bytes}, err
					}}}
				before := to.cpu()
				b.ResetTimer()
				var workers sync.WaitGroup
				for range atOnce {
					workers.Go(func() {
						for i := n.Add(1) - 1; i < int64(b.N); i = n.Add(1) - 1 {
							begun := time.Now()
							got, err := check(client, to.url+to.path, tag)
							if took[i] = time.Since(begun); err != nil || got != status {
								b.Errorf("%d, %v", got, err)
								return
							}
						}
					})
				}
				workers.Wait()
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
				b.ReportMetric(float64(took[b.N/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(bytes.Load())/float64(b.N), "B/check")
				b.ReportMetric(float64((to.cpu()-before).Microseconds())/float64(b.N), "cpu-ms/s") // of 1,000 checks: the same as µs of one
			})
		}
	}
}

// check requests a file as the fetcher does, and returns the answer's status.
func check(client *http.Client, url, tag string) (int, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "machinemon-update")
	req.Header.Set("Accept-Encoding", "identity")
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// countedConn counts the bytes of a connection in both directions.
type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// BenchmarkPage requests the page and the API's answer with a million clients in the
// database, and reports the gate's memory before and after, and the CPU time of the gate and
// of PostgreSQL's server. Each third client runs the
// published release, one in a thousand failed, and one in ten has the host name of another.
func BenchmarkPage(b *testing.B) {
	d := newDatabase(b)
	s := d.unprepared()
	if err := s.prepare(b.Context(), migrations[:5]); err != nil { // it is migrated then, too
		b.Fatal(err)
	}
	began := time.Now()
	numbers := "WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < $1) "
	if _, err := s.db.ExecContext(b.Context(), numbers+"INSERT INTO clients ("+columns+") SELECT 'c-' || i, 'host-' || (i * 7919 % (9 * $2 / 10)) || '.example.com', 'linux', 'amd64', "+
		"CASE i % 3 WHEN 0 THEN 'v0.1.12' WHEN 1 THEN 'v0.1.11' ELSE 'v0.1.10' END, $3 - i % 120, 'agent', "+
		"CASE i % 1000 WHEN 0 THEN 'rolled back' ELSE 'committed' END, 'v0.1.12', '', '', $4, 0, '0123456789abcdef' || (1000000000000000 + i) FROM n", *fleetSize, *fleetSize, began.Unix(), began.Unix()); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d clients written in %s", *fleetSize, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	own := &process{tb: b, cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	cpu := own.cpu() + serverCPU(b)
	d.open().Close()
	b.Logf("migrated in %s, %s of CPU", time.Since(began).Round(time.Millisecond), (own.cpu() + serverCPU(b) - cpu).Round(time.Millisecond))
	if kind == "PostgreSQL" { // does this by itself within a minute
		if _, err := s.db.ExecContext(b.Context(), "VACUUM ANALYZE clients"); err != nil {
			b.Fatal(err)
		}
	}
	dir := downloadDir(b)
	g := start(b, "gate", "UPSTREAM="+start(b, "upstream").url, "DIR="+dir, "DATABASE="+d.name)
	for _, to := range []struct{ name, path string }{{"page", "/updates"}, {"page by time", "/updates?sort=seen&order=desc"}, {"page by attempt", "/updates?sort=attempt&order=desc"},
		{"page by version", "/updates?sort=version"}, {"page of a version", "/updates?version=v0.1.11"}, {"page of troubles", "/updates?result=trouble&sort=result"},
		{"page of a few hosts", "/updates?q=host-1234"}, {"page of some hosts by time", "/updates?q=host-12&sort=seen&order=desc"}, {"page of all hosts", "/updates?q=host"},
		{"page of all hosts by time", "/updates?q=host&sort=seen"}, {"api", "/api/v1/admin/updates"}, {"page in a rollout", "/updates"}, {"page in a rollout by plan", "/updates"},
		{"page again", "/updates"}, {"page after a release", "/updates"}} {
		if strings.Contains(to.name, "after a release") { // of which all were told
			if _, err := s.db.ExecContext(b.Context(), "UPDATE classes SET told = 'v0.1.12' WHERE version <> 'v0.1.12'"); err != nil {
				b.Fatal(err)
			}
		}
		share := ""
		if strings.Contains(to.name, "rollout") {
			share = `"rollout":{"percent":10},`
		}
		putRelease(b, dir, share)
		plan := filepath.Join(dir, rollout.FileName)
		if strings.Contains(to.name, "plan") {
			text, err := rollout.New(&manifest.Manifest{Version: "v0.1.12"}, []int{10, 100}, time.Hour, 10, began.Add(-time.Hour)).Marshal()
			if err == nil {
				err = os.WriteFile(plan, text, 0o644)
			}
			if err != nil {
				b.Fatal(err)
			}
		} else if err := os.RemoveAll(plan); err != nil {
			b.Fatal(err)
		}
		b.Run(to.name+", "+kind, func(b *testing.B) {
			before, cpu := g.memory("VmRSS"), g.cpu()+serverCPU(b)
			size := 0
			for b.Loop() {
				req, err := http.NewRequest(http.MethodGet, g.url+to.path, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.SetBasicAuth("admin", "secret")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if size = len(got); err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp.StatusCode, err, string(got[:min(size, 500)]))
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/page")
			b.ReportMetric((g.cpu()+serverCPU(b)-cpu).Seconds()/float64(b.N), "cpu-s/page")
			b.ReportMetric(float64(size)/1e3, "kB-page")
			b.ReportMetric(float64(before)/1e6, "MB-before")
			b.ReportMetric(float64(g.memory("VmHWM"))/1e6, "MB-peak")
		})
	}
	http.DefaultClient.CloseIdleConnections()
}
