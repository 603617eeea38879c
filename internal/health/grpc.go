package health

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/machinemon/machinemon-update/internal/target"
)

// The health service of gRPC has one request and one answer, of one field each, so they
// are written here: google.golang.org/grpc would make the gate two thirds larger.

const (
	grpcHealth = "/grpc.health.v1.Health/Check"
	grpcMost   = 64 << 10 // bytes of an answer that are read

	serviceField = 1<<3 | 2 // the tag of HealthCheckRequest.service, a string
	statusField  = 1 << 3   // the tag of HealthCheckResponse.status, a number
)

// serving are the values of HealthCheckResponse.status.
var serving = map[uint64]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

// grpcRefusals are the statuses of gRPC that a health check is likely to get.
var grpcRefusals = map[string]string{
	"5":  "it does not know the service (hint: the path of the probe's URL names it)",
	"12": "it has no health service (grpc.health.v1.Health)",
	"7":  "it denies the request (hint: headers_file in this probe names a file with credentials)",
	"16": "it denies the request (hint: headers_file in this probe names a file with credentials)",
}

// checkGRPC asks the health service of gRPC.
func checkGRPC(ctx context.Context, p target.Probe, who peers) error {
	u, err := url.Parse(p.GRPC)
	if err != nil {
		return plain(err)
	}
	service := strings.TrimPrefix(u.Path, "/")
	u.Path = grpcHealth
	req, err := http.NewRequest(http.MethodPost, u.String(), bytes.NewReader(grpcFrame(service)))
	if err != nil {
		return plain(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := ask(ctx, p, who, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, grpcMost))
	if err != nil {
		return requestError(p, err)
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/grpc") {
		return fmt.Errorf("it is no server of gRPC: status %d%s", resp.StatusCode, denied(p, resp.StatusCode))
	}
	// An answer has its status in the trailer, a refusal without a body in the header.
	if status := cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status")); status != "0" {
		if why := grpcRefusals[status]; why != "" {
			return errors.New(why)
		}
		return fmt.Errorf("gRPC status %.10q instead of \"0\"", status)
	}
	status, err := grpcStatus(body)
	if err != nil || status == 1 {
		return err
	}
	if name := serving[status]; name != "" {
		return fmt.Errorf("its health service says %s instead of SERVING", name)
	}
	return fmt.Errorf("its health service says %d instead of SERVING", status)
}

// grpcFrame returns a HealthCheckRequest in the frame of gRPC: a byte that is 0 without
// compression, the length, the message.
func grpcFrame(service string) []byte {
	var message []byte
	if service != "" {
		message = append(binary.AppendUvarint([]byte{serviceField}, uint64(len(service))), service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// grpcStatus returns the status in a framed HealthCheckResponse. Without the field it is 0.
func grpcStatus(frame []byte) (uint64, error) {
	if len(frame) < 5 || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:5])) != len(frame)-5 {
		return 0, errors.New("the answer of its health service is not understood")
	}
	message := frame[5:]
	if len(message) == 0 {
		return 0, nil
	}
	status, n := binary.Uvarint(message[1:])
	if message[0] != statusField || n <= 0 {
		return 0, errors.New("the answer of its health service is not understood")
	}
	return status, nil
}
