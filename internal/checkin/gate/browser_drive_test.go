//go:build chromium

package gate

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var shots = flag.String("shots", "", "keep pictures of the page in this `directory`")

// tab is a real browser's tab, logged in by HTTP Basic. An error in its log fails the
// test.
type tab struct {
	*testing.T
	ctx context.Context
	// answered is the status of an error that the test expects; 0: none.
	answered int64
}

// newTab starts a browser with its own profile, which is removed with it. The browser
// runs without a sandbox, since it loads only this page.
func newTab(t *testing.T) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	inTime, end := context.WithTimeout(allocated, 3*time.Minute)
	t.Cleanup(end)
	ctx, end := chromedp.NewContext(inTime)
	b := &tab{T: t, ctx: ctx}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error(err)
		}
		end()
	})
	if err := chromedp.Listen(ctx, b.heard); err != nil {
		t.Fatalf("cannot start the browser: %v (hint: make check-page installs it)", err)
	}
	handle := true
	command(b, fetch.Enable, fetch.EnableParams{HandleAuthRequests: &handle})
	command(b, cdplog.Enable, cdp.Empty{})
	command(b, audits.Enable, cdp.Empty{})
	return b
}

func command[P, R any](b *tab, c cdp.Command[P, R], params P) R {
	b.Helper()
	r, err := chromedp.Call(b.ctx, c, params)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// heard records the browser's errors, and answers its request for a password. It must
// not wait for the browser, so it calls it in goroutines.
func (b *tab) heard(event any) {
	switch e := event.(type) {
	case *fetch.EventRequestPaused:
		go chromedp.Call(b.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
	case *fetch.EventAuthRequired:
		go chromedp.Call(b.ctx, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{RequestID: e.RequestID, AuthChallengeResponse: &fetch.AuthChallengeResponse{
			Response: fetch.AuthChallengeResponseResponseProvideCredentials, Username: admin, Password: correct}})
	case *runtime.EventConsoleAPICalled:
		b.Errorf("the console says %+v", e.Args)
	case *runtime.EventExceptionThrown:
		b.Errorf("a script of the page failed: %s", e.ExceptionDetails.Text)
	case *cdplog.EventEntryAdded:
		if e.Entry.Source == cdplog.EntrySourceNetwork && b.answered != 0 && strings.Contains(e.Entry.Text, fmt.Sprint(b.answered)) {
			return
		}
		b.Errorf("the browser's log says: %s (%s)", e.Entry.Text, e.Entry.URL)
	case *audits.EventIssueAdded:
		b.Errorf("the browser has an issue: %+v", e.Issue)
	case *network.EventLoadingFailed:
		b.Errorf("a request failed: %s %s", e.ErrorText, e.BlockedReason)
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 && e.Response.Status != b.answered {
			b.Errorf("%s was answered by %d", e.Response.URL, e.Response.Status)
		}
	}
}

// see sets the color scheme, "light" or "dark", and the width of the window in pixels.
func (b *tab) see(scheme string, width int64) {
	b.Helper()
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	b.do(chromedp.EmulateViewport(width, 900))
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.Fatal(err)
	}
}

// goes executes steps that lead to another page, and waits for that page.
func (b *tab) goes(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if _, err := chromedp.RunResponse(b.ctx, steps...); err != nil {
		b.Fatal(err)
	}
}

// ask evaluates JavaScript with the debugger, since the page allows no scripts.
func ask[T any](b *tab, script string, args ...any) T {
	b.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](fmt.Sprintf(script, args...)))
	if err != nil {
		b.Fatalf("%s: %v", script, err)
	}
	return v
}

func (b *tab) text() string { return ask[string](b, "document.body.innerText") }

func (b *tab) wants(texts ...string) {
	b.Helper()
	shown := b.text()
	for _, want := range texts {
		if !strings.Contains(shown, want) {
			b.Errorf("the page lacks %q:\n%s", want, shown)
		}
	}
}

// picture saves a picture of the whole page below -shots, if that is set.
func (b *tab) picture(name string) {
	b.Helper()
	if *shots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}
