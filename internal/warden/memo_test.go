package warden

import (
	"encoding/json"
	"testing"
)

func FuzzMemo(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"running","generation":1,"gateway":{"pid":1,"start_time":2},"profile":{"Name":"demo"}}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMemo(data)
		if err != nil {
			if m != nil {
				t.Error("a memo beside an error")
			}
			return
		}
		if m.Generation < 0 || m.Gateway != nil && m.Gateway.PID <= 0 {
			t.Errorf("accepted %+v", m)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseMemo(again); err != nil {
			t.Errorf("accepted %s, but not as %s: %v", data, again, err)
		}
	})
}
