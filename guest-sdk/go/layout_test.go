package rule

import (
	"encoding/hex"
	"testing"
)

func TestLayoutIsWithoutGaps(t *testing.T) {
	type state struct {
		Flag   bool
		Number float64
		Limit  Hysteresis
		Count  int64
		Three  [3]float64
		Rate   RateOfChange
	}
	before := state{true, 1, Hysteresis{true}, -2, [3]float64{0, 2, 0}, RateOfChange{1, 3, true}}
	blob := Encode(before)
	check(t, hex.EncodeToString(blob), "01"+"000000000000f03f"+"01"+"feffffffffffffff"+
		"0000000000000000"+"0000000000000040"+"0000000000000000"+
		"000000000000f03f"+"0300000000000000"+"01")
	// Any byte but 0 is a flag that is set.
	blob[0] = 7
	after, ok := Decode[state](blob)
	check(t, ok, true)
	check(t, after, before)
	_, ok = Decode[state](blob[1:])
	check(t, ok, false)
}

func TestSlotOf(t *testing.T) {
	check(t, SlotOf(""), 0x811c9dc5)
	check(t, SlotOf("a"), 0xe40c292c)
	check(t, SlotOf("foobar"), 0xbf9cf968)
}
