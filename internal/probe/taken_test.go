package probe

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
)

func TestOfASharedSocketOnlyWhatTheGatewayHasAcceptedCounts(t *testing.T) {
	ns := netnstest.New(t)
	address := server(t, ns, answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	all := func(by Taker) func(int) (Taker, error) { return func(int) (Taker, error) { return by, nil } }
	for _, tt := range []struct {
		name      string
		taken     func(nth int) (Taker, error) // of the attempt's nth look
		verdict   Verdict
		elsewhere bool
		detail    string
	}{
		{name: "the gateway has accepted the first", taken: all(Gateway), verdict: Yes},
		{name: "the gateway has accepted one of them, others the rest", verdict: Yes, taken: func(nth int) (Taker, error) {
			if nth == connections-1 {
				return Gateway, nil
			}
			return Another, nil
		}},
		{name: "the gateway accepts only after others", verdict: Yes, taken: func(nth int) (Taker, error) {
			switch {
			case nth < connections-1:
				return Another, nil
			case nth < 3*connections:
				return Nobody, nil
			}
			return Gateway, nil
		}},
		{name: "others have accepted them all, which says nothing of the gateway", taken: all(Another), verdict: Unknown, elsewhere: true,
			detail: "8 connections to " + address.String() + " were all accepted by the gateway that is to be replaced"},
		{name: "nobody accepts", taken: all(Nobody), verdict: No, detail: "no answer within "},
		{name: "who has accepted cannot be found out", verdict: Unknown, detail: "too many open files",
			taken: func(int) (Taker, error) { return Nobody, unix.EMFILE }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			nth := -1
			res := Run(ctx, ns, -1, get200(address), func(net.Conn) (Taker, error) { nth++; return tt.taken(nth) })
			if res.Verdict != tt.verdict || res.Elsewhere != tt.elsewhere || !strings.Contains(res.Detail, tt.detail) {
				t.Errorf("%+v, want %+v", res, tt)
			}
			if early := errors.Is(ctx.Err(), context.DeadlineExceeded); early != (tt.name == "nobody accepts") {
				t.Errorf("the attempt was over in time: %v", !early)
			}
		})
	}
}
