package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/machinemon/machinemon-update/internal/durable"
	"github.com/machinemon/machinemon-update/internal/state"
	"github.com/machinemon/machinemon-update/internal/target"
)

// asUser is the account that runs a program of the operator: that of the target's sender, which
// has no other groups.
type asUser struct{ uid, gid uint32 }

// accountOf returns the account of a target's sender.
func accountOf(name string) (*asUser, error) {
	u, err := user.Lookup(target.Account("notify", name))
	if err != nil {
		return nil, fmt.Errorf("cannot find the account of the sender: %w (hint: sudo systemctl restart machinemon-accounts@%s.service)", err, name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &asUser{uint32(uid), uint32(gid)}, err
}

// run runs a program with this input. Its output goes to the journal.
func (s *Sender) run(ctx context.Context, name string, argv []string, input []byte, env ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", bytes.NewReader(input), os.Stdout, os.Stderr
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	as := s.as
	if as == nil {
		as = accountOf
	}
	account, err := as(name)
	if err != nil {
		return err
	}
	if account != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: account.uid, Gid: account.gid}
	}
	if err := cmd.Run(); ctx.Err() != nil {
		return fmt.Errorf("%s did not end within %s", argv[0], patience)
	} else if err != nil {
		return fmt.Errorf("%s: %w", argv[0], durable.Cause(err))
	}
	return nil
}

// mail hands one notice to the mail program, with all recipients.
func (s *Sender) mail(ctx context.Context, n *target.Notify, notice state.Notice) error {
	mail, err := mailOf(n.Mail, notice)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.Mailer); os.IsNotExist(err) {
		return fmt.Errorf("there is no %s (hint: install a mail server, such as nullmailer or postfix)", s.Mailer)
	}
	return s.run(ctx, notice.Target, append([]string{s.Mailer, "-i"}, n.Mail...), mail)
}

// mailOf returns the text of a mail.
func mailOf(to []string, notice state.Notice) ([]byte, error) {
	var b bytes.Buffer
	for _, header := range [][2]string{
		{"To", strings.Join(to, ", ")},
		{"Subject", mime.QEncoding.Encode("utf-8", subject(notice))},
		{"Date", time.Now().UTC().Format(time.RFC1123Z)},
		{"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\n", header[0], header[1])
	}
	b.WriteString("\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(body(notice))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n")), nil
}

// command runs the operator's command for one notice, which is its input, as JSON.
func (s *Sender) command(ctx context.Context, n *target.Notify, notice state.Notice) error {
	input, err := json.Marshal(message{Notice: notice, Subject: subject(notice), Text: body(notice)})
	if err != nil {
		return err
	}
	return s.run(ctx, notice.Target, n.Command, append(input, '\n'), "MACHINEMON_EVENT="+notice.Event, "MACHINEMON_TARGET="+notice.Target,
		"MACHINEMON_ATTEMPT="+string(notice.Attempt), "MACHINEMON_VERSION="+notice.Version, "MACHINEMON_FROM="+notice.From,
		"MACHINEMON_RESULT="+string(notice.Result), "MACHINEMON_SUBJECT="+subject(notice))
}
