package gate

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCheckIn compares check-ins through the gate with check-ins at upstream, and
// through a proxy that does nothing else, which is about the most that a gate of net/http
// can reach. Each iteration sends some to each of them in turn, so that other work on the
// machine meets them alike; the figures are medians of the iterations. cpu is what all
// processes took for one check-in: on a busy machine its ratios are those to trust. Take
// -benchtime=30x.
//
// A proxy is a server and a client, so it costs at least as much as a client and an upstream
// that does nothing: where the CPU is the limit, no proxy reaches more than half of direct.
func BenchmarkCheckIn(b *testing.B) {
	for _, c := range []struct {
		name         string
		atOnce, many int
		fresh        bool // one connection for each check-in, as with an agent that checks in every two minutes
	}{{"1", 1, 500, false}, {"1 new", 1, 500, true}, {"64", 64, 3000, false}} {
		b.Run(c.name+", "+kind, func(b *testing.B) {
			up := start(b, "upstream")
			own := &process{tb: b, cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
			l := &checkInLoad{b: b, atOnce: c.atOnce, fresh: c.fresh}
			targets := []*target{{name: "direct", process: up}, {name: "proxy", process: start(b, "proxy", "UPSTREAM="+up.url)}, {name: "gate", process: gateBefore(b, up.url), told: true}}
			for _, to := range targets { // the clients are known then, and pools full
				l.send(to, knownClients)
			}
			b.ResetTimer()
			for i := range b.N {
				for j := range targets {
					to := targets[(i+j)%len(targets)]
					before := own.cpu() + up.cpu()
					if to.process != up {
						before += to.cpu()
					}
					took, whole := l.send(to, c.many)
					after := own.cpu() + up.cpu()
					if to.process != up {
						after += to.cpu()
					}
					to.cpus += after - before
					to.rates = append(to.rates, float64(c.many)/whole.Seconds())
					to.middles = append(to.middles, float64(took[c.many/2].Microseconds()))
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, to := range targets {
				b.ReportMetric(median(to.rates), to.name+"/s")
				b.ReportMetric(median(to.middles), to.name+"-p50-µs")
				b.ReportMetric(float64(to.cpus.Microseconds())/float64(b.N*c.many), to.name+"-cpu-µs")
				if to.process == up {
					continue
				}
				ratios, later := slices.Clone(to.rates), slices.Clone(to.middles)
				for i := range ratios {
					ratios[i] /= targets[0].rates[i]
					later[i] -= targets[0].middles[i]
				}
				b.ReportMetric(median(ratios), to.name+"-of-direct")
				b.ReportMetric(median(later), to.name+"-later-µs")
				b.ReportMetric(float64(targets[0].cpus)/float64(to.cpus), to.name+"-of-direct-by-cpu")
			}
		})
	}
}

// target is a process that gets check-ins.
type target struct {
	name string
	*process
	told           bool // whether it tells clients of the release
	rates, middles []float64
	cpus           time.Duration
}

func median(of []float64) float64 {
	return slices.Sorted(slices.Values(of))[len(of)/2]
}

// knownClients is the number of clients, which the gate has in its database.
const knownClients = 2000

// checkInLoad sends check-ins of these clients in turn.
type checkInLoad struct {
	b      *testing.B
	atOnce int
	fresh  bool
	next   atomic.Int64
}

// send sends check-ins, and returns how long each took, sorted, and all of them.
func (l *checkInLoad) send(to *target, many int) (took []time.Duration, whole time.Duration) {
	request, err := os.ReadFile("testdata/request.json")
	if err != nil {
		l.b.Fatal(err)
	}
	took = make([]time.Duration, many)
	var n atomic.Int64
	began := time.Now()
	var workers sync.WaitGroup
	for range l.atOnce {
		workers.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: l.fresh}}
			defer client.CloseIdleConnections()
			for i := n.Add(1) - 1; i < int64(many); i = n.Add(1) - 1 {
				id := fmt.Sprintf(`"client_id":"c-%d"`, l.next.Add(1)%knownClients)
				body := bytes.Replace(request, []byte(`"client_id":"c-1"`), []byte(id), 1)
				begun := time.Now()
				resp, err := client.Post(to.url+"/api/v1/checkin", "application/json", bytes.NewReader(body))
				if err != nil {
					l.b.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				took[i] = time.Since(begun)
				if told := bytes.Contains(got, []byte("update_version")); err != nil || told != to.told || !bytes.Contains(got, []byte(id)) {
					l.b.Errorf("%s, %v", got, err)
					return
				}
			}
		})
	}
	workers.Wait()
	whole = time.Since(began)
	slices.Sort(took)
	return took, whole
}
