package command

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listening returns, sorted, the TCP addresses at which the processes accept connections
// and that this machine can reach: of all addresses, 127.0.0.1.
func listening(pids []int) (found []netip.AddrPort, err error) {
	own := map[string]bool{}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil && !ended(err) {
			return nil, fmt.Errorf("cannot look at the sockets of process %d: %w", pid, err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil {
				own[to] = true
			}
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			const listens = "0A" // TCP_LISTEN, see proc_net_tcp(5)
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listens || !own["socket:["+f[9]+"]"] {
				continue
			}
			if at, ok := parseSocket(f[1]); ok && !slices.Contains(found, at) {
				found = append(found, at)
			}
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	return found, nil
}

// parseSocket parses an address of /proc/net/tcp: words in the order of this machine's
// bytes, and the port.
func parseSocket(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	if addr = addr.Unmap(); addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(addr, uint16(n)), ok
}
