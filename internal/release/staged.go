package release

import (
	"fmt"

	"github.com/machinemon/machinemon-update/internal/manifest"
)

// batch holds the files that a publication copies into the directory. None has its final
// name before publish.
type batch struct {
	platforms map[string]manifest.Platform
	archives  map[string]*temporary // by platform
	all       []*temporary
}

func parseNames(q Request) ([]archiveName, error) {
	names := make([]archiveName, len(q.Archives))
	for i, path := range q.Archives {
		var err error
		if names[i], err = parseName(path, q.Version); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return names, nil
}

// add copies the archives and reads each as a machine does.
func (b *batch) add(d *dir, q Request, names []archiveName, product string) error {
	b.platforms, b.archives = map[string]manifest.Platform{}, map[string]*temporary{}
	for i, path := range q.Archives {
		key := names[i].platform
		if _, twice := b.platforms[key]; twice {
			return fmt.Errorf("%s: %s is given twice", path, key)
		}
		c, err := d.copyOf(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, plain(err))
		}
		b.all = append(b.all, c)
		b.archives[key] = c
		c.name = fmt.Sprintf("%s-%s-%s-%s%s", product, q.Version, key, c.sha256[:12], names[i].extension)
		if b.platforms[key], err = c.describe(); err != nil {
			return fmt.Errorf("%s: %w", path, plain(err))
		}
	}
	return nil
}

func (b *batch) publish() error {
	for _, c := range b.all {
		if err := c.publish(); err != nil {
			return fmt.Errorf("%s: %w", c.name, plain(err))
		}
	}
	return nil
}

// discard removes the files that were not published.
func (b *batch) discard() {
	for _, c := range b.all {
		c.discard()
	}
}
