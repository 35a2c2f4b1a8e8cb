package strictjson

import (
	"errors"
	"testing"
)

type value struct {
	A int    `json:"a"`
	B string `json:"b"`
}

func TestDecodeTakesOneValueWithKnownMembersAndNothingElse(t *testing.T) {
	if v, err := Decode[value]([]byte(` {"a":1,"b":"x"} `)); err != nil || v != (value{1, "x"}) {
		t.Errorf("got %+v, %v", v, err)
	}
	for _, bad := range []string{"", "{", `{"c":1}`, `{"a":"1"}`, "null x"} {
		if _, err := Decode[value]([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if _, err := Decode[value]([]byte(`{} {}`)); !errors.Is(err, ErrTrailing) {
		t.Errorf("two values: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) { Decode[value](data) })
}
