package main

import (
	"fmt"

	"watchfire/rule"
)

type restart struct{}

func (restart) OnReading(device rule.Device, _ *rule.Reading, state *counter) error {
	state.Count++
	if state.Count%3 == 0 {
		device.Trigger("third", rule.Info, "every third", rule.Number("count", state.Count))
	}
	return nil
}

type totals struct {
	Count int64
	Total float64
}

type migration struct{}

func (migration) OnReading(device rule.Device, reading *rule.Reading, state *totals) error {
	x, ok := reading.Number("n")
	if !ok {
		return nil
	}
	state.Count++
	state.Total += x
	device.Trigger("total", rule.Info, "total so far",
		rule.Number("count", state.Count), rule.Number("total", state.Total))
	return nil
}

type textFlag struct{}

func (textFlag) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	mode, ok := reading.Text("mode")
	running, _ := reading.Flag("running")
	switch {
	case ok && mode == "fault" && running:
		device.Trigger("fault", rule.Critical, "fault while running", rule.Text("mode", mode), rule.Flag("running", running))
	case ok && mode != "fault":
		device.Clear("fault")
	}
	return nil
}

type missing struct{}

func (missing) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	_, a := reading.Number("a")
	_, b := reading.Number("b")
	switch {
	case a:
		device.Clear("a-missing")
	case b:
		device.Trigger("a-missing", rule.Major, "a is missing")
	}
	return nil
}

// failing fails at a value, and counts otherwise.
type failing struct {
	at   float64
	fail func() error
}

func fail() error { return fmt.Errorf("poison: %d", 666) }
func trap() error { panic("trap: 667") }

func (own failing) OnReading(_ rule.Device, reading *rule.Reading, state *counter) error {
	x, ok := reading.Number("n")
	if !ok {
		return nil
	}
	if x == own.at {
		return own.fail()
	}
	state.Count++
	reading.Derive("count", float64(state.Count))
	return nil
}

type devices struct{ Parameters }

func (own devices) OnReading(device rule.Device, _ *rule.Reading, _ *rule.NoState) error {
	line := rule.Text("line", "none")
	if label := device.Label("line"); !label.IsNone() {
		line = rule.Labelled("line", label)
	}
	_, found := rule.Find(own.Name)
	device.Trigger("seen", rule.Info, "device seen",
		rule.Text("name", device.Name()), rule.Text("type", device.Type()), line, rule.Flag("found", found))
	return nil
}

type logging struct{}

func (logging) OnReading(_ rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	if n, ok := reading.Number("n"); ok {
		rule.Log.Info("n is %d", int64(n))
	}
	return nil
}
