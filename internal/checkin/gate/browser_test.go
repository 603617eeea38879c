//go:build chromium

package gate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/machinemon/machinemon-update/internal/manifest"
	"github.com/machinemon/machinemon-update/internal/rollout"
	"github.com/machinemon/machinemon-update/internal/testkit"
)

func newFleet(t *testing.T) (*bench, *tab) {
	t.Helper()
	b := newBench(t)
	b.publish()
	if err := b.store.Load().insertReports(t.Context(), fleet(time.Now())); err != nil {
		t.Fatal(err)
	}
	return b, newTab(t)
}

// looks checks the page in light and dark, at several widths.
func (v *tab) looks(name string) {
	v.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 400} {
			v.see(scheme, width)
			v.picture(fmt.Sprintf("%s-%s-%d", name, scheme, width))
			if lacks := ask[[]string](v, faint); len(lacks) > 1 {
				v.Errorf("%s, %s, %d px: too little contrast (WCAG AA):\n%s", name, scheme, width, strings.Join(lacks[1:], "\n"))
			} else {
				v.Logf("%s, %s, %d px: %s", name, scheme, width, lacks[0])
			}
		}
	}
	// 320 is the width of the smallest phones, and of 1280 at 400 %.
	for _, width := range []int64{320, 400, 960, 961, 1280} {
		v.see("light", width)
		if wide := ask[int64](v, "document.documentElement.scrollWidth"); wide > width {
			v.Errorf("%s: %d px of page in %d px of window", name, wide, width)
		}
		if n := ask[int](v, broken); n != 0 {
			v.Errorf("%s, %d px: the word “available” is broken in %d rows", name, width, n)
		}
	}
}

// broken counts the rows in which “available” takes more than one line.
const broken = `(() => {
	const lines = cell => { const r = document.createRange(); r.selectNodeContents(cell); return new Set([...r.getClientRects()].map(b => Math.round(b.top))).size };
	return [...document.querySelectorAll("td.update")].filter(c => c.textContent.trim() == "available" && lines(c) > 1).length;
})()`

// faint returns the lowest contrast of text and of the borders of controls, and then
// the elements that have less than WCAG 2.2 requires at level AA (1.4.3, 1.4.11).
const faint = `(() => {
	const rgb = s => { const m = s.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
	const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
	const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + .05) / (y + .05) };
	const back = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c } return [255, 255, 255, 1] };
	const low = [], least = { text: 99, border: 99 };
	const see = (what, e, r, enough) => { least[what] = Math.min(least[what], r); if (r < enough) low.push(what + " " + r.toFixed(2) + ": " + (e.innerText || e.outerHTML).slice(0, 60)) };
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; n = texts.nextNode();) {
		const e = n.parentElement;
		if (n.data.trim() && e.getClientRects().length) see("text", e, ratio(rgb(getComputedStyle(e).color), back(e)), 4.5);
	}
	for (const e of document.querySelectorAll("button, input:not([type=hidden]), nav > a"))
		see("border", e, Math.max(ratio(rgb(getComputedStyle(e).borderTopColor), back(e.parentElement)), ratio(back(e), back(e.parentElement))), 3);
	return ["least contrast: text " + least.text.toFixed(2) + ", border " + least.border.toFixed(2), ...low];
})()`

func TestPageLooks(t *testing.T) {
	b, v := newFleet(t)
	v.do(chromedp.Navigate(b.url + "/updates"))
	v.looks("fleet")
	v.wants("10 of 38 clients are in trouble", "Status is self-reported", "38 all", "10 in trouble", "38 clients, those in trouble first.", "<script>alert(1)</script>",
		"was restarted 4 times", "UTC", "v0.1.12")
	if n := ask[int](v, `document.querySelectorAll("script, table img, table a:not([class]), main style").length - document.querySelectorAll("thead a").length`); n != 0 {
		t.Errorf("clients' text has made %d elements", n)
	}
	v.see("light", 400)
	v.named()

	client := b.store.Load()
	for i := range 3 {
		r := fleet(time.Now())[16] // edge-ams-1
		r.Attempted = r.Attempted.Add(-time.Duration(i+1) * 24 * time.Hour)
		if err := client.insertReports(t.Context(), []report{r}); err != nil {
			t.Fatal(err)
		}
	}
	v.do(chromedp.Navigate(b.url + "/updates?q=ams&history=" + fleet(time.Now())[16].ClientID))
	v.do(chromedp.Click(chromedp.CSS(".legend summary")))
	v.looks("history")
	v.wants("What the results mean", "A person must act")
	if n := ask[int](v, `document.querySelectorAll(".history li").length`); n != 4 {
		t.Errorf("%d attempts are shown", n)
	}
	v.do(chromedp.Navigate(b.url + "/updates?result=trouble&q=edge"))
	v.looks("filtered")
	v.wants("3 of 38 clients match “edge”, those in trouble first. Show all", "edge-ams-1")
	v.do(chromedp.Navigate(b.url + "/updates?q=nowhere"))
	v.wants("0 of 38 clients match “nowhere”.", "No client matches.")
	v.looks("no-match")
	if _, err := b.decide(off, "alice from 192.0.2.7"); err != nil {
		t.Fatal(err)
	}
	v.do(chromedp.Navigate(b.url + "/updates"))
	v.do(chromedp.Click(chromedp.CSS(".card details summary")))
	v.looks("stopped")
	v.wants("off: updates are stopped", "by alice from 192.0.2.7", "machinemon-release set ")
}

// TestPageEmpty checks that the page without clients and release says what is missing.
func TestPageEmpty(t *testing.T) {
	b := newBench(t)
	v := newTab(t)
	v.do(chromedp.Navigate(b.url + "/updates"))
	v.looks("empty")
	v.wants("No client has checked in through the gate yet.", "machinemon-release publish "+b.config.DownloadDir)
	s := b.store.Swap(nil)
	defer b.store.Store(s)
	b.decided.Store(nil)
	v.answered = 503
	v.do(chromedp.Navigate(b.url + "/updates"))
	v.looks("no-database")
	v.wants("the database cannot be used (hint: journalctl -u machinemon-checkin-gate)", "off: updates are stopped", "The database has not been read yet")
}

// TestPageRollout checks how far a release with a plan has come, before and after it stops.
func TestPageRollout(t *testing.T) {
	b, v := newFleet(t)
	b.config.ReleaseNotes = "https://example.com/notes/{version}"
	b.publish(func(m *manifest.Manifest) {
		m.ReleasedAt, m.Rollout = "2026-11-01T12:00:00Z", &manifest.Rollout{Percent: 10}
	})
	p := rollout.New(b.release(), []int{10, 50, 100}, 6*time.Hour, 10, time.Now().Add(-24*time.Hour))
	for name, failures := range map[string]int{"rollout": 100, "rollout-stops": 10} {
		p.MaxFailures = failures
		text, err := p.Marshal()
		testkit.Must(t, err)
		b.put(rollout.FileName, string(text))
		v.do(chromedp.Navigate(b.url + "/updates"))
		v.looks(name)
		v.wants("For 10 % of the clients.", "14 of 35 clients have it, 7 failed", "Released 2026-11-01 12:00 UTC", "Rollout by plan: 10 % since ", " 14 have it, ")
		if got := ask[bool](v, `document.body.innerText.includes("stopped: ")`); got != (failures == 10) {
			t.Errorf("%s: stopped: %t", name, got)
		}
		if got := ask[int](v, `document.querySelectorAll("a[href='https://example.com/notes/v0.1.12']").length`); got != 1 {
			t.Errorf("%s: %d links to the notes", name, got)
		}
	}
}

// TestPageSwitch turns the switch by mouse; the page then shows its state, user and time.
func TestPageSwitch(t *testing.T) {
	b, v := newFleet(t)
	v.see("light", 1280)
	v.do(chromedp.Navigate(b.url + "/updates"))
	for _, c := range []struct {
		button, by string
		stopped    bool
	}{{"Stop updates", "Turned off", true}, {"Let updates go on", "Turned on", false}} {
		if !c.stopped { // a second step confirms it
			v.do(chromedp.Click(chromedp.CSS(".card details summary")), chromedp.WaitVisible(chromedp.CSS(".card button")))
			v.wants("can update to v0.1.12, which is for 100 % of the clients. Those that are due are told at their next check-in.")
		}
		if got := ask[string](v, "document.querySelector('.card button').innerText"); got != c.button {
			t.Fatalf("the button is %q", got)
		}
		v.goes(chromedp.Click(chromedp.CSS(".card button")))
		if b.stopped() != c.stopped {
			t.Errorf("%s: stopped is %t", c.button, b.stopped())
		}
		v.wants(c.by + b.decided.Load().At.Format(" 2006-01-02 15:04 UTC") + " by admin from 127.0.0.1.")
		if got := ask[string](v, "document.title"); strings.HasPrefix(got, "Stopped – ") != c.stopped {
			t.Errorf("the title is %q", got)
		}
	}
	// Reloading does not send the form again.
	v.do(chromedp.Reload())
	if b.stopped() || ask[string](v, "location.pathname") != "/updates" {
		t.Error("a reload turned the switch")
	}
}

// TestPageFilters sets filters and sorting by mouse, and removes them again.
func TestPageFilters(t *testing.T) {
	b, v := newFleet(t)
	v.see("light", 1280)
	v.do(chromedp.Navigate(b.url + "/updates"))
	rows := func() int { return ask[int](v, "document.querySelectorAll('tbody tr').length") }
	first := func() string { return ask[string](v, "document.querySelector('tbody th bdi').innerText") }
	click := func(text string) {
		t.Helper()
		v.goes(chromedp.Click(fmt.Sprintf("//main//a[contains(normalize-space(.), %q)]", text)))
	}
	for _, c := range []struct {
		link  string
		rows  int
		first string
	}{
		{"in trouble", 10, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
		{"in trouble", 38, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
		{"held", 1, "billing"},
		{"all", 38, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
		{"with an update", 21, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
		{"without", 17, "cache-1"},
		{"v0.1.12", 14, "cache-1"},
		{"Client", 14, "cache-1"},
		{"Client", 14, "清凉山-服务器"},
		{"Last seen", 14, "清凉山-服务器"},
		{"Last seen", 14, "web-01.fra.example.net"},
		{"Show all", 38, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
		{"unknown", 1, "tests"},
		{"Show all", 38, "<script>alert(1)</script>\"><img src=x onerror=alert(2)>"},
	} {
		if click(c.link); rows() != c.rows || first() != c.first {
			t.Errorf("%s: %d rows, the first is %s (%s)", c.link, rows(), first(), ask[string](v, "location.search"))
		}
	}
	click("Version")
	v.do(chromedp.SendKeys(chromedp.CSS("input[type=search]"), "EDGE-a"))
	v.goes(chromedp.Click(chromedp.CSS("nav button")))
	if rows() != 2 || ask[string](v, "location.search") != "?sort=version&q=EDGE-a" {
		t.Errorf("%d rows, at %s", rows(), ask[string](v, "location.search"))
	}
}

// TestPageKeyboard uses the page by keyboard alone, and checks that the focus is
// visible.
func TestPageKeyboard(t *testing.T) {
	b, v := newFleet(t)
	for _, width := range []int64{1280, 400} {
		for _, scheme := range []string{"light", "dark"} {
			v.see(scheme, width)
			v.do(chromedp.Navigate(b.url + "/updates"))
			v.reach("Version")
			v.picture(fmt.Sprintf("focus-%s-%d", scheme, width))
		}
	}
	v.goes(chromedp.KeyEvent(kb.Enter))
	if got := ask[string](v, "document.querySelector('[aria-sort=ascending]').innerText"); !strings.HasPrefix(got, "Version") {
		t.Errorf("sorted by %s", got)
	}
	v.reach("in trouble")
	v.goes(chromedp.KeyEvent(kb.Enter))
	v.wants("10 of 38 clients match, those in trouble first.")
	v.reach("Host or ID")
	v.goes(chromedp.KeyEvent("mail" + kb.Enter))
	v.wants("1 of 38 clients match “mail”")
	v.reach("Stop updates")
	v.goes(chromedp.KeyEvent(kb.Enter))
	v.wants("off: updates are stopped")
	v.reach("Resume updates")
	v.do(chromedp.KeyEvent(" "))
	v.reach("Let updates go on")
	v.goes(chromedp.KeyEvent(" "))
	v.wants("The gate tells clients when an update is available.")
	if d := b.decided.Load(); !d.Directives || d.By != "admin from 127.0.0.1" {
		t.Errorf("decided is %+v", d)
	}
}

// reach presses Tab until the control with this name has the focus.
func (v *tab) reach(name string) {
	v.Helper()
	var passed []string
	for range 40 {
		v.do(chromedp.KeyEvent(kb.Tab))
		at := ask[[]string](v, `(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			return [(e.labels?.[0] ?? e).innerText, s.outlineStyle + " " + s.outlineWidth, String(r.top >= 0 && r.bottom <= innerHeight)] })()`)
		if at[1] != "solid 3px" || at[2] != "true" {
			v.Errorf("at %q: outline %s, in sight: %s", at[0], at[1], at[2])
		}
		passed = append(passed, strings.TrimSpace(at[0]))
		if strings.Contains(at[0], name) {
			return
		}
	}
	v.Fatalf("Tab does not lead to %q, but to %q", name, passed)
}

// named checks that each control has a name, and that screen readers see the table.
func (v *tab) named() {
	v.Helper()
	roles := map[string]int{}
	for _, n := range command(v, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role := strings.Trim(string(n.Role.Value), `"`)
		roles[role]++
		switch role {
		case "link", "button", "searchbox", "columnheader", "rowheader", "navigation", "heading":
			if n.Name == nil || len(n.Name.Value) <= len(`""`) {
				v.Errorf("a %s has no name: %+v", role, n)
			}
		}
	}
	for role, want := range map[string]int{"table": 1, "rowheader": 38, "row": 39, "cell": 38 * 5, "main": 1, "navigation": 1, "search": 1, "searchbox": 1} {
		if roles[role] != want {
			v.Errorf("%d of role %s, want %d (%v)", roles[role], role, want, roles)
		}
	}
}
