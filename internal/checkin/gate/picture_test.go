//go:build chromium

package gate

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestPagePicture makes the picture of the page that README shows, from a few clients.
//
//	make check-page SHOTS=DIR && cp DIR/page.svg internal/checkin/gate/testdata/
func TestPagePicture(t *testing.T) {
	b := newBench(t)
	b.publish()
	clients := slices.DeleteFunc(fleet(time.Now()), func(r report) bool {
		return !slices.Contains([]string{"web-01.fra.example.net", "web-02.fra.example.net", "web-03.fra.example.net", "db-1.fra.example.net",
			"edge-ams-2", "mail", "pi-kitchen"}, r.Hostname)
	})
	if err := b.store.Load().insertReports(t.Context(), clients); err != nil {
		t.Fatal(err)
	}
	v := newTab(t)
	const width = 1100
	v.see("light", width)
	v.do(chromedp.Navigate(b.url + "/updates"))
	v.wants("edge-ams-2", "web-01.fra.example.net")
	// A browser shows the elements of a page that is part of a picture, without its scripts
	// and without what it would load.
	page := ask[string](v, "new XMLSerializer().serializeToString(document.documentElement)")
	height := ask[int64](v, "document.documentElement.scrollHeight")
	picture := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d"><foreignObject width="100%%" height="100%%">%s</foreignObject></svg>`+"\n", width, height, page)
	dir := *shots
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "page.svg")
	if err := os.WriteFile(path, []byte(picture), 0o644); err != nil {
		t.Fatal(err)
	}
	v.do(chromedp.Navigate("file://" + path))
	v.picture("picture")
	if n := ask[int](v, "document.getElementsByTagName('tr').length"); n != len(clients)+1 {
		t.Errorf("the picture has %d rows for %d clients", n, len(clients))
	}
}
