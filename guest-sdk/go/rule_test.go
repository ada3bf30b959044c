package rule

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/host"
)

func check[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%v\nwant:\n%v", got, want)
	}
}

type none struct{}

type seen struct {
	Count int64
	Last  float64
}

// script is a rule whose callbacks a test gives.
type script struct {
	reading func(device Device, reading *Reading, state *seen) error
	timer   func(device Device, tag uint32, at int64, state *seen) error
}

func (own *script) OnReading(device Device, reading *Reading, state *seen) error {
	return own.reading(device, reading, state)
}

func (own *script) OnTimer(device Device, tag uint32, at int64, state *seen) error {
	return own.timer(device, tag, at, state)
}

func (own *script) OnSchedule(string, int64) error {
	total := int64(0)
	for device, state := range States[seen]().Selected() {
		total += state.Count
		*state = seen{}
		_ = device
	}
	Emit("plant", "total", float64(total), Now())
	return nil
}

// scripted registers a script on the metric x and gives its host.
func scripted(t *testing.T, reading func(device Device, reading *Reading, state *seen) error) (*fakeHost, *script) {
	own := &script{reading: reading}
	register(Manifest{Name: "script", StateVersion: 1}, func(none) (Rule, Subscription, error) {
		return PerDevice(own), On("x"), nil
	})
	return newHost(t, "{}"), own
}

func x(device uint32, time int64, value float64) row {
	return row{device, time, map[string]any{"x": value}}
}

func TestStateIsLoadedOnceAndOnlyWhatChangedIsStored(t *testing.T) {
	fake, _ := scripted(t, func(_ Device, reading *Reading, state *seen) error {
		if value, _ := reading.Number("x"); value > 0 {
			state.Count, state.Last = state.Count+1, value
		} else if value < 0 {
			*state = seen{}
		}
		return nil
	})
	if err := fake.batch(x(1, 0, 1), x(2, 0, 0), x(1, 1, 5), row{3, 0, map[string]any{"y": 1.0}}); err != nil {
		t.Fatal(err)
	}
	check(t, fake.took(), "store 0 of 1: 16 bytes")
	check(t, fake.counted("load"), 1)
	fake.batch(x(2, 2, 0), x(1, 2, 0))
	check(t, fake.took(), "")
	check(t, fake.counted("load"), 0)
	fake.batch(x(1, 3, -1), x(2, 3, -1))
	check(t, fake.took(), "store 0 of 1: 0 bytes")
	// A blob of another size counts as nothing, and one that goes away is removed.
	instance = nil
	fake.state[[2]uint32{0, 0}] = []byte{1, 2, 3}
	fake.batch(x(0, 4, -1))
	check(t, fake.took(), "")
	fake.batch(x(0, 4, 7))
	check(t, fake.took(), "store 0 of 0: 16 bytes")
}

func TestAFailureForgetsWhatWasNotStored(t *testing.T) {
	fake, _ := scripted(t, func(device Device, reading *Reading, state *seen) error {
		state.Count++
		reading.Derive("count", float64(state.Count))
		switch value, _ := reading.Number("x"); value {
		case 666:
			return errors.New("poison: 666")
		case 667:
			panic("trap: 667")
		case 668:
			device.Trigger("key", Severity(9), "")
		case 669:
			reading.Derive("infinite", math.Inf(1))
		case 670:
			Emit("plant", "nothing", math.NaN(), 0)
		}
		return nil
	})
	fake.batch(x(1, 0, 1))
	fake.took()
	check(t, fake.batch(x(1, 0, 1), x(1, 0, 666)).Error(), "poison: 666")
	check(t, fake.took(), "")
	for value, want := range map[float64]string{
		667: "panic: trap: 667 (rule_test.go:",
		668: "panic: trigger key: there is no severity 9",
		669: "panic: derive infinite: the value is infinite",
		670: "panic: emit nothing of plant: the value NaN is no finite number",
	} {
		if err := fake.batch(x(1, 0, value)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	fake.batch(x(1, 0, 1))
	check(t, fake.derived["count"][0], 2)
}

func TestEffectsAreHandedOverOnce(t *testing.T) {
	fake, own := scripted(t, func(device Device, reading *Reading, state *seen) error {
		value, _ := reading.Number("x")
		switch {
		case value == 1:
			device.SetTimer(7, Now()+5)
		case value == 2:
			device.CancelTimer(7)
		case value == 3:
			reading.Drop()
		case value == 4:
			reading.Derive("half", value/2)
			reading.Derive("third", value/3)
			device.Trigger("four", Minor, "it is four", Number("value", value), Text("as", "text"), Flag("so", true))
			device.Clear("three")
		}
		return nil
	})
	fake.now = 100
	fake.batch(x(1, 0, 1), x(2, 0, 1), x(1, 0, 2), x(3, 0, 2), x(3, 0, 1))
	check(t, fake.took(), "set 7 of 2 at 105\nset 7 of 3 at 105\ncancel 7 of 1")
	check(t, fake.counted("now"), 1)
	fake.batch(x(1, 0, 3), x(1, 0, 4), x(1, 0, 5))
	check(t, fake.took(), "trigger 1 four minor row 1 value=4 as=text so=true\nclear 1 three row 1")
	check(t, slices.Equal(fake.keepMask, []uint8{0, 1, 1}), true)
	check(t, len(fake.derived), 2)
	check(t, fake.derived["half"][1], 2)
	check(t, math.IsNaN(fake.derived["half"][0]), true)
	own.timer = func(device Device, tag uint32, at int64, state *seen) error {
		state.Count = int64(tag)
		device.Trigger("due", Info, "due")
		return nil
	}
	callbacks.OnTimers([]host.Timer{{Device: 2, Tag: 7, At: 105}})
	check(t, fake.took(), "trigger 2 due info row -1\nstore 0 of 2: 16 bytes")
	callbacks.OnSchedule("hourly", 0)
	check(t, fake.took(), "store 0 of 2: 0 bytes\nemit plant total at 100: 7")
}

func TestDevicesAreAskedForOnce(t *testing.T) {
	fake, _ := scripted(t, func(device Device, reading *Reading, _ *seen) error {
		line, _ := device.Label("line").Text()
		Log.Info("%s is of %q at %q", device.Name(), device.Type(), line)
		return nil
	})
	fake.labels["line"] = map[uint32]host.Value{1: {Kind: host.Text, Text: "3"}}
	fake.labels["type"] = map[uint32]host.Value{0: {Kind: host.Text, Text: "press"}}
	fake.batch(x(0, 0, 1), x(1, 0, 1), x(0, 0, 1))
	check(t, fake.took(), `log 1: press-0 is of "press" at ""
log 1: press-1 is of "" at "3"
log 1: press-0 is of "press" at ""`)
	check(t, fake.counted("attribute"), 2)
	fake.batch(x(0, 0, 1))
	check(t, fake.counted("attribute"), 0)
	fake.version++
	fake.batch(x(0, 0, 1))
	check(t, fake.counted("attribute"), 2)
	device, there := Find("press-2")
	check(t, there, true)
	check(t, device.Handle(), 2)
}

func TestReadingsOfAllKinds(t *testing.T) {
	fake, _ := scripted(t, func(_ Device, reading *Reading, _ *seen) error {
		mode, hasMode := reading.Text("mode")
		running, hasRunning := reading.Flag("running")
		b, hasB := reading.Number("b")
		x, hasX := reading.Number("x")
		Log.Info("%d: %q %t, %t %t, %g %t, %g %t", reading.Time(), mode, hasMode, running, hasRunning, b, hasB, x, hasX)
		return nil
	})
	fake.batch(
		row{1, 5, map[string]any{"x": 1.0, "mode": "fault"}},
		row{1, 4, map[string]any{"running": false, "x": 2.0, "b": 3.0}},
	)
	check(t, fake.took(), "log 1: 5: \"fault\" true, false false, NaN false, 1 true\nlog 1: 4: \"\" false, false true, 3 true, 2 true")
	check(t, fake.counted("numbers"), 2)
}

type columns struct{ states *Store[seen] }

func (own columns) OnBatch(batch *Batch) error {
	values := batch.Numbers("x")
	for row := range values {
		device := batch.Device(row)
		own.states.At(device).Count++
		values[row] *= 2
		if batch.Times()[row] < 0 {
			batch.Drop(row)
		}
	}
	batch.Derive("double", values)
	return nil
}

func TestBatches(t *testing.T) {
	register(Manifest{StateVersion: 1}, func(none) (Rule, Subscription, error) {
		return PerBatch(columns{NewStore[seen](SlotOf("window"))}), On(), nil
	})
	fake := newHost(t, "{}")
	fake.batch(x(1, 0, 1), x(1, -1, 2))
	check(t, slices.Equal(fake.derived["double"], []float64{2, 4}), true)
	check(t, slices.Equal(fake.keepMask, []uint8{1, 0}), true)
	state, _ := Decode[seen](fake.state[[2]uint32{SlotOf("window"), 1}])
	check(t, state, seen{Count: 2})
}

type misnamed struct{}

func (misnamed) OnReading(Device, *Reading, *seen) error { return nil }
func (misnamed) OnTimer(Device) error                    { return nil }

type plain struct{}

func (plain) OnReading(Device, *Reading, *seen) error { return nil }

type unfit struct{}

func (unfit) OnReading(Device, *Reading, *struct{ Name string }) error { return nil }

func TestWhatIsRefusedAtStart(t *testing.T) {
	for want, start := range map[string]func() (Rule, Subscription){
		"OnTimer is not a callback: it has to be func(device rule.Device, tag uint32, at int64, state *rule.seen) error": func() (Rule, Subscription) {
			return PerDevice(misnamed{}), On()
		},
		"the rule subscribes to silence and has no OnSilence": func() (Rule, Subscription) {
			return PerDevice(plain{}), Subscription{Silence: SilentAfter(Second)}
		},
		"the rule has schedules and no OnSchedule": func() (Rule, Subscription) {
			return PerDevice(plain{}), Subscription{Schedules: []Schedule{{}}}
		},
		".Name: string cannot be state: what can is float64, int64, bool, and arrays and structs of these": func() (Rule, Subscription) {
			return PerDevice(unfit{}), On()
		},
		"slot 0 of the state is used twice": func() (Rule, Subscription) {
			NewStore[seen](0)
			return PerDevice(plain{}), On()
		},
		"start gave no rule: it is made by rule.PerDevice or rule.PerBatch": func() (Rule, Subscription) {
			return Rule{}, On()
		},
	} {
		register(Manifest{StateVersion: 1}, func(none) (Rule, Subscription, error) {
			rule, subscription := start()
			return rule, subscription, nil
		})
		newHost(t, "{}")
		_, err := callbacks.Start()
		if err == nil {
			t.Errorf("nothing, want %s", want)
			continue
		}
		check(t, err.Error(), want)
	}
	module.manifest.StateVersion = 0
	module.start = func(string) (Rule, Subscription, error) { return PerDevice(plain{}), On(), nil }
	_, err := callbacks.Start()
	check(t, err.Error(), "a rule with state has a StateVersion, from 1, in its manifest")
}

func TestMigration(t *testing.T) {
	type before struct{ Count int64 }
	register(Manifest{StateVersion: 2}, func(none) (Rule, Subscription, error) { return Rule{}, On(), nil })
	_, err := callbacks.Migrate(1, 0, host.Blobs{})
	check(t, err.Error(), "state of version 1 cannot be taken over")
	module.manifest.Migrate = func(_, slot uint32, state []byte) ([]byte, error) {
		if slot != 0 {
			return nil, errors.New("no such slot")
		}
		old, _ := Decode[before](state)
		return Encode(seen{old.Count - 1, float64(old.Count) - 1}), nil
	}
	_, err = callbacks.Migrate(1, 3, host.Blobs{Lengths: []uint32{8}, Data: make([]byte, 8)})
	check(t, err.Error(), "no such slot")
	data := append(Encode(before{5}), Encode(before{1})...)
	states, err := callbacks.Migrate(1, 0, host.Blobs{Lengths: []uint32{8, 0, 8}, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	check(t, slices.Equal(states.Lengths, []uint32{16, 0, 0}), true)
	state, ok := Decode[seen](states.Data)
	check(t, ok, true)
	check(t, state, seen{4, 4})
}
