package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// Post posts the notices of a target to its webhook.
func (s *Sender) Post(ctx context.Context, name string) error {
	return s.each(ctx, name, target.WayWebhook, s.post)
}

// client follows no redirect: the token must not go anywhere else.
var client = http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport: &http.Transport{DisableKeepAlives: true}}

// post posts one notice. An error has neither the address, of which a part may be secret,
// nor what the server said, which may repeat the token.
func (s *Sender) post(ctx context.Context, n *target.Notify, notice state.Notice) error {
	token, err := s.token(n)
	if err != nil {
		return err
	}
	req, err := request(ctx, n, token, notice)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20)); err != nil {
		return fmt.Errorf("the server's answer broke off: %w", err)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("the server answers with status %d", answer.StatusCode)
	}
	return nil
}

// maxToken bounds a token in bytes.
const maxToken = 2048

// token returns the content of the token file.
func (s *Sender) token(n *target.Notify) (string, error) {
	if n.TokenFile == "" {
		return "", nil
	}
	data, err := durable.ReadFile(filepath.Join(s.Credentials, target.Credential(n.TokenFile)), maxToken)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("notify.token_file was not handed over (hint: sudo systemctl daemon-reload)")
	case err != nil:
		return "", fmt.Errorf("cannot read notify.token_file: %w", durable.Cause(err))
	case string(data) == target.NoFile:
		return "", fmt.Errorf("notify.token_file %s does not exist (hint: make it, with mode 0600)", n.TokenFile)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || state.Printable(token) != token {
		return "", fmt.Errorf("notify.token_file %s must have one printable line", n.TokenFile)
	}
	return token, nil
}

// message is the document of the format "json".
type message struct {
	state.Notice
	Subject string `json:"subject"`
	Text    string `json:"text"`
	Format  any    `json:"format,omitempty"` // hides that of the notice, which is about files
}

// request makes the request for one notice in the format of the server.
func request(ctx context.Context, n *target.Notify, token string, notice state.Notice) (*http.Request, error) {
	address := n.Webhook
	if strings.Contains(address, target.TokenPlace) {
		address, token = strings.ReplaceAll(address, target.TokenPlace, pathOf(token)), ""
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	title, text := subject(notice), body(notice)
	var doc any
	switch n.Format {
	case target.FormatNtfy:
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("Title", mime.QEncoding.Encode("utf-8", title))
		header.Set("Priority", strconv.Itoa(urgency(notice)+2))
		header.Set("Tags", []string{"white_check_mark", "hourglass", "warning", "rotating_light"}[urgency(notice)])
	case target.FormatSlack:
		// Slack gives these three characters a meaning, such as a link or the call of a channel.
		plain := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(title + "\n" + text)
		doc = map[string]string{"text": plain}
	case target.FormatGotify:
		if token != "" {
			header.Set("X-Gotify-Key", token)
			token = ""
		}
		doc = map[string]any{"title": title, "message": text, "priority": []int{2, 5, 8, 10}[urgency(notice)]}
	case target.FormatAlertmanager:
		doc = []any{alert(notice, title, text)}
	default:
		doc = message{Notice: notice, Subject: title, Text: text}
	}
	content := []byte(text)
	if doc != nil {
		var err error
		if content, err = json.Marshal(doc); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(content))
	if err != nil {
		return nil, errors.New("notify.webhook and the token do not make an address")
	}
	req.Header = header
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("User-Agent", "machinemon-update")
	return req, nil
}

// pathOf escapes a token for a path. The slashes in Slack's stay.
func pathOf(token string) string {
	return strings.ReplaceAll(url.PathEscape(token), "%2F", "/")
}

// fires is how long an alert lasts that nothing ends.
const fires = 24 * time.Hour

// alert returns an alert for Alertmanager's API. A recovery ends the alert of the failure,
// which has the same labels.
func alert(n state.Notice, title, text string) any {
	name, end := "MachinemonUpdate", n.Time.Add(fires)
	switch n.Event {
	case target.EventExpiring:
		name = "MachinemonUpdateExpiring"
	case EventTest:
		name, end = "MachinemonUpdateTest", n.Time.Add(5*time.Minute)
	case target.EventRecovered:
		end = n.Time
	}
	return map[string]any{
		"labels":      map[string]string{"alertname": name, "target": n.Target, "instance": n.Host},
		"annotations": map[string]string{"summary": title, "description": text, "event": n.Event},
		"startsAt":    n.Time.UTC().Format(time.RFC3339),
		"endsAt":      end.UTC().Format(time.RFC3339),
	}
}
