//go:build chromium

package gate

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The page as a browser shows it, with the whole fleet.
func TestLooks(t *testing.T) {
	b := newBench(t)
	b.publish()
	if err := b.store.Load().record(fleet(time.Now())); err != nil {
		t.Fatal(err)
	}
	v := newTab(t)
	v.do(chromedp.Navigate(b.url + "/updates"))
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{400, 1280} {
			v.see(scheme, width)
			v.picture(fmt.Sprintf("fleet-%s-%d", scheme, width))
		}
	}
}
