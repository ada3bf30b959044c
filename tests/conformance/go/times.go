package main

import "watchfire/rule"

type timers struct{}

const overdue = 1

func (timers) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	if start, _ := reading.Flag("start"); start {
		device.SetTimer(overdue, rule.Now()+10*rule.Second)
	}
	if done, _ := reading.Flag("done"); done {
		device.CancelTimer(overdue)
		device.Clear("overdue")
	}
	return nil
}

func (timers) OnTimer(device rule.Device, tag uint32, _ int64, _ *rule.NoState) error {
	device.Trigger("overdue", rule.Major, "not done in time", rule.Number("tag", tag))
	return nil
}

type silent struct{ Silent bool }

type silence struct{}

func startSilence(Parameters) (rule.Rule, rule.Subscription, error) {
	subscription := rule.On("temperature")
	subscription.Silence = rule.SilentAfter(30 * rule.Second)
	return rule.PerDevice(silence{}), subscription, nil
}

func (silence) OnReading(device rule.Device, _ *rule.Reading, state *silent) error {
	if state.Silent {
		state.Silent = false
		device.Clear("silent")
	}
	return nil
}

func (silence) OnSilence(device rule.Device, last int64, heard bool, state *silent) error {
	state.Silent = true
	var details []rule.Detail
	if heard {
		details = append(details, rule.Number("last", last))
	}
	device.Trigger("silent", rule.Warning, "no readings", details...)
	return nil
}

type counter struct{ Count int64 }

type schedule struct{ Parameters }

func startSchedule(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	subscription := rule.On("temperature")
	subscription.Schedules = []rule.Schedule{{Name: "hourly", Cron: "0 * * * *"}}
	return rule.PerDevice(schedule{parameters}), subscription, nil
}

func (schedule) OnReading(_ rule.Device, _ *rule.Reading, state *counter) error {
	state.Count++
	return nil
}

func (own schedule) OnSchedule(_ string, at int64) error {
	total, devices := int64(0), 0
	for _, state := range rule.States[counter]().Selected() {
		total += state.Count
		state.Count = 0
		devices++
	}
	rule.Emit(own.Name, "readings", float64(total), at)
	rule.Emit(own.Name, "devices", float64(devices), at)
	return nil
}

type lateness struct{ Last, Count int64 }

type late struct{}

func (late) OnReading(device rule.Device, reading *rule.Reading, state *lateness) error {
	time := reading.Time()
	if time >= state.Last {
		state.Last = time
		return nil
	}
	state.Count++
	device.Trigger("late", rule.Info, "a late reading",
		rule.Number("by", state.Last-time), rule.Number("count", state.Count))
	return nil
}
