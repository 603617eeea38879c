package release

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/machinemon/machinemon-update/internal/archive"
	"github.com/machinemon/machinemon-update/internal/delta"
	"github.com/machinemon/machinemon-update/internal/manifest"
)

const (
	// small is the size in bytes below which the delta of a file alone is not worth a
	// request. Without it, however, a machine must download the archive.
	small = 64 << 10
	// mostSmall limits the number of small files that may have changed between two releases
	// if they are to get deltas: the manifest lists each delta. A tree of more small files
	// has none.
	mostSmall = 32
	// deltaMemory limits the total size in bytes of the files, old and new, of the deltas
	// that are made at once. The program was seen to take four times as much, with the
	// encoder's memory.
	deltaMemory = 256 << 20
	// zstdLimit limits the total size in bytes of two files that get a delta besides the
	// patch, for clients that know no patches. Beyond it our encoder takes long, forgets most
	// of the older file, and makes deltas that are hardly smaller than the archive.
	zstdLimit = 96 << 20
)

// previous returns the earlier releases that the directory still has, the newest first.
// Without signed manifests it has only the last one.
func (d *dir) previous(old *manifest.Manifest) ([]*manifest.Manifest, error) {
	entries, err := os.ReadDir(d.Name())
	if err != nil {
		return nil, err
	}
	var all []*manifest.Manifest
	if old != nil {
		all = append(all, old)
	}
	for _, e := range entries {
		if !hashed.MatchString(e.Name()) {
			continue
		}
		// A manifest that cannot be read is not a release to start from.
		if m, err := readManifest(filepath.Join(d.Name(), e.Name())); err == nil && m != nil {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b *manifest.Manifest) int { return cmp.Compare(b.Sequence, a.Sequence) })
	return all, nil
}

// job is one delta to make.
type job struct {
	platform, entry string
	from            manifest.Content
	old, new        string // paths of the unpacked files
	small           bool   // both files are

	delta, patch *temporary // nil: it is not worth it
	err          error
}

// addDeltas makes deltas from the last q.Deltas releases for each platform that is
// published.
func (b *batch) addDeltas(d *dir, q Request, product string, old *manifest.Manifest) error {
	if q.Deltas == 0 {
		return nil
	}
	before, err := d.previous(old)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(d.Name(), temporaryPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	u := &unpacker{dir: d, work: work}
	var jobs []*job
	for _, key := range slices.Sorted(maps.Keys(b.platforms)) {
		if old != nil && old.Version == q.Version && old.Platforms[key].SHA256 == b.platforms[key].SHA256 {
			continue // its deltas exist
		}
		more, err := u.jobs(key, q, b.platforms[key], b.archives[key].path, before)
		if err != nil {
			return err
		}
		jobs = append(jobs, more...)
	}
	d.run(jobs, b.platforms, q.Progress)
	for _, j := range jobs {
		err = errors.Join(err, j.err)
		p := b.platforms[j.platform]
		add := func(to *[]manifest.Delta, m *temporary, ends string) {
			if m != nil {
				b.all = append(b.all, m)
				m.name = fmt.Sprintf("%s-%s-%s-%s%s", product, q.Version, j.platform, m.sha256[:12], ends)
				*to = append(*to, manifest.Delta{FromSHA256: j.from.SHA256, Entry: j.entry, File: m.name, SHA256: m.sha256, Size: m.size})
			}
		}
		add(&p.Deltas, j.delta, ".delta.zst")
		add(&p.Patches, j.patch, ".patch")
		b.platforms[j.platform] = p
	}
	return err
}

// unpacker unpacks archives into directories below work.
type unpacker struct {
	dir  *dir
	work string
}

func (u *unpacker) unpack(path string, entries map[string]manifest.Content) (map[string]string, error) {
	into, err := os.MkdirTemp(u.work, "")
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	want, at := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		want[name] = fmt.Sprint(len(want))
		at[name] = filepath.Join(into, want[name])
	}
	_, err = archive.Extract(io.NewSectionReader(f, 0, info.Size()), root, func(e archive.Entry) string { return want[e.Name] }, archive.Default)
	return at, err
}

// jobs pairs the files of an archive with those of the earlier releases.
func (u *unpacker) jobs(key string, q Request, p manifest.Platform, path string, before []*manifest.Manifest) ([]*job, error) {
	usable := func(p manifest.Platform) map[string]manifest.Content {
		c := maps.Clone(p.Contents)
		maps.DeleteFunc(c, func(_ string, c manifest.Content) bool { return c.Size == 0 || c.Size > delta.MaxFile })
		return c
	}
	var (
		jobs []*job
		news map[string]string // unpacked once there is something to compare
		from = map[string]bool{p.SHA256: true}
		done = map[string]bool{}
	)
	for _, m := range before {
		was, ok := m.Platforms[key]
		if !ok || from[was.SHA256] {
			continue
		}
		olds, err := u.unpack(filepath.Join(u.dir.Name(), was.File), usable(was))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, or on another server
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", was.File, plain(err))
		}
		from[was.SHA256] = true
		if news == nil {
			if news, err = u.unpack(path, usable(p)); err != nil {
				return nil, plain(err)
			}
		}
		byName := map[string]string{} // many archives have the version in their file names
		for name := range olds {
			byName[unversioned(name, m.Version)] = name
		}
		var pairs []*job
		changed := 0 // small files
		for _, entry := range slices.Sorted(maps.Keys(news)) {
			name := byName[unversioned(entry, q.Version)]
			c := was.Contents[name]
			if name == "" || c.SHA256 == p.Contents[entry].SHA256 || done[entry+c.SHA256] {
				continue
			}
			done[entry+c.SHA256] = true
			j := &job{platform: key, entry: entry, from: c, old: olds[name], new: news[entry]}
			if j.small = max(c.Size, p.Contents[entry].Size) < small; j.small {
				changed++
			}
			pairs = append(pairs, j)
		}
		jobs = append(jobs, slices.DeleteFunc(pairs, func(j *job) bool { return j.small && changed > mostSmall })...)
		if len(from) > q.Deltas {
			break
		}
	}
	return jobs, nil
}

func unversioned(name, version string) string {
	return strings.ReplaceAll(name, strings.TrimPrefix(version, "v"), "{version}")
}

// run does the jobs on all processors, within deltaMemory: a job that needs more runs
// alone.
func (d *dir) run(jobs []*job, platforms map[string]manifest.Platform, progress func(done, total int)) {
	var (
		mu      sync.Mutex
		room    = sync.NewCond(&mu)
		used    int64
		done    int
		running sync.WaitGroup
		slots   = make(chan struct{}, runtime.GOMAXPROCS(0))
	)
	for _, j := range jobs {
		need := j.from.Size + platforms[j.platform].Contents[j.entry].Size
		slots <- struct{}{}
		mu.Lock()
		for used > 0 && used+need > deltaMemory {
			room.Wait()
		}
		used += need
		mu.Unlock()
		running.Go(func() {
			j.err = d.diff(j, platforms[j.platform].Size)
			mu.Lock()
			used -= need
			done++
			if progress != nil {
				progress(done, len(jobs))
			}
			room.Signal()
			mu.Unlock()
			<-slots
		})
	}
	running.Wait()
}

// diff makes the delta and the patch of one file, without those that are larger than half
// of the archive.
func (d *dir) diff(j *job, archiveSize int64) error {
	before, err := os.ReadFile(j.old)
	if err != nil {
		return err
	}
	after, err := os.ReadFile(j.new)
	if err != nil {
		return err
	}
	make := func(diff func(before, after []byte) ([]byte, error)) (*temporary, error) {
		made, err := diff(before, after)
		if err != nil || int64(len(made)) > archiveSize/2 {
			return nil, err
		}
		return d.temporary(bytes.NewReader(made))
	}
	if len(before)+len(after) <= zstdLimit {
		if j.delta, err = make(delta.DiffZstd); err != nil {
			return err
		}
	}
	if !j.small {
		j.patch, err = make(delta.Diff)
	}
	return err
}
