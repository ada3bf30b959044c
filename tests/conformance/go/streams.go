package main

import (
	"math"

	"watchfire/rule"
)

type stream struct{}

func (stream) OnReading(_ rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	voltage, hasVoltage := reading.Number("voltage")
	current, hasCurrent := reading.Number("current")
	if hasVoltage && hasCurrent {
		reading.Derive("power", voltage*current)
	}
	return nil
}

type keep struct{}

func (keep) OnReading(_ rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	if changed, ok := reading.Number("changed"); !ok || !(changed > 0) {
		reading.Drop()
	}
	return nil
}

type emitSite struct{}

func (emitSite) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	x, ok := reading.Number("temperature")
	if site := device.Site(); ok && site != "" {
		rule.Emit(site, "site_temperature", x, reading.Time())
	}
	return nil
}

type mathematics struct{}

func (mathematics) OnReading(_ rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	x, ok := reading.Number("x")
	if !ok {
		return nil
	}
	reading.Derive("sum", x+0.1)
	reading.Derive("difference", x-0.1)
	reading.Derive("product", x*1.1)
	reading.Derive("quotient", x/3)
	reading.Derive("root", math.Sqrt(math.Abs(x)))
	reading.Derive("sine", math.Sin(x))
	reading.Derive("exponential", math.Exp(x/100))
	reading.Derive("logarithm", math.Log(math.Abs(x)+1))
	reading.Derive("power", math.Pow(math.Abs(x), 0.3))
	reading.Derive("floor", math.Floor(x))
	return nil
}
