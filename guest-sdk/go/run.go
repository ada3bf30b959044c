package rule

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/host"
)

// instance is the rule of this instance; nil before start, and after a callback that failed.
var instance *Rule

func init() {
	callbacks.Describe = describe
	callbacks.Start = func() (host.Subscription, error) {
		var subscription host.Subscription
		err := guarded(func() (err error) {
			subscription, err = start()
			return err
		})
		return subscription, err
	}
	callbacks.OnBatch = func() error {
		return callback(func() error {
			batch.begin()
			return instance.onBatch(&batch)
		})
	}
	callbacks.OnTimers = func(due []host.Timer) error {
		return callback(func() error {
			if instance.onTimer == nil {
				return nil
			}
			for _, timer := range due {
				if err := instance.onTimer(Device{timer.Device, noRow}, timer.Tag, timer.At); err != nil {
					return err
				}
			}
			return nil
		})
	}
	callbacks.OnSilence = func(silent []host.SilentDevice) error {
		return callback(func() error {
			if instance.onSilence == nil {
				return nil
			}
			for _, one := range silent {
				if err := instance.onSilence(Device{one.Device, noRow}, one.Last, one.Heard); err != nil {
					return err
				}
			}
			return nil
		})
	}
	callbacks.OnSchedule = func(name string, at int64) error {
		return callback(func() error {
			if instance.onSchedule == nil {
				return nil
			}
			return instance.onSchedule(name, at)
		})
	}
	callbacks.Migrate = func(oldVersion, slot uint32, states host.Blobs) (host.Blobs, error) {
		var answer host.Blobs
		err := guarded(func() (err error) {
			answer, err = migrate(oldVersion, slot, states)
			return err
		})
		return answer, err
	}
}

func describe() host.Manifest {
	err := module.err
	if module.start == nil {
		err = errors.New("there is no rule: rule.Register is to be called in init")
	}
	if err != nil {
		// There is no other way to say it: describe has no error.
		host.Log(uint8(logError), err.Error())
		panic(err)
	}
	return host.Manifest{
		Name:         module.manifest.Name,
		Version:      module.manifest.Version,
		Description:  module.manifest.Description,
		Parameters:   module.schema,
		StateVersion: module.manifest.StateVersion,
	}
}

// start makes the rule of its parameters.
func start() (host.Subscription, error) {
	instance, stores, generation = nil, nil, generation+1
	starting = true
	defer func() { starting = false }()
	rule, subscription, err := module.start(host.Config())
	for _, store := range stores {
		err = errors.Join(err, store.problem())
	}
	err = errors.Join(err, rule.err)
	switch {
	case err != nil:
	case rule.onBatch == nil:
		err = errors.New("start gave no rule: it is made by rule.PerDevice or rule.PerBatch")
	case subscription.Silence.kind != host.SilenceOff && rule.onSilence == nil:
		err = errors.New("the rule subscribes to silence and has no OnSilence")
	case len(subscription.Schedules) > 0 && rule.onSchedule == nil:
		err = errors.New("the rule has schedules and no OnSchedule")
	case subscription.Silence.after < 0:
		err = fmt.Errorf("silence after a span of %d microseconds", subscription.Silence.after)
	}
	if err != nil {
		return host.Subscription{}, err
	}
	answer := host.Subscription{
		Metrics: subscription.Metrics,
		Silence: subscription.Silence.kind,
		After:   uint64(subscription.Silence.after),
	}
	for _, schedule := range subscription.Schedules {
		answer.Schedules = append(answer.Schedules, host.Schedule(schedule))
	}
	instance = &rule
	batch.subscribe(subscription.Metrics)
	return answer, nil
}

// callback is what all callbacks have in common. One that fails has its effects dropped by the host, so that what the
// rule remembers of them is wrong: it is made anew before the next one.
func callback(run func() error) error {
	beginCallback()
	err := guarded(func() error {
		if instance == nil {
			if _, err := start(); err != nil {
				return err
			}
		}
		if err := run(); err != nil {
			return err
		}
		for _, store := range stores {
			store.save()
		}
		effects.flush()
		return nil
	})
	batch.end()
	if err != nil {
		instance = nil
	}
	return err
}

// beginCallback forgets what holds for one callback.
func beginCallback() {
	clock.known, registry.checked = false, false
	effects.reset()
}

// guarded makes an error of a panic: its text would be lost with the standard error, which a component has not.
func guarded(run func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v%s", reason, place())
		}
	}()
	return run()
}

// place is the line of the rule at which it panicked.
func place() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)])
	for {
		frame, more := frames.Next()
		own := strings.HasPrefix(frame.Function, "watchfire/rule.") && !strings.HasSuffix(frame.File, "_test.go")
		// What panics by itself, as an index that is out of range, does so in a frame of the runtime.
		if frame.Function != "" && !own && !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf(" (%s:%d)", frame.File[strings.LastIndexByte(frame.File, '/')+1:], frame.Line)
		}
		if !more {
			return ""
		}
	}
}

func migrate(oldVersion, slot uint32, states host.Blobs) (host.Blobs, error) {
	if module.manifest.Migrate == nil {
		return host.Blobs{}, fmt.Errorf("state of version %d cannot be taken over", oldVersion)
	}
	answer := host.Blobs{Lengths: make([]uint32, len(states.Lengths)), Data: make([]byte, 0, len(states.Data))}
	rest := states.Data
	for i, length := range states.Lengths {
		if length == 0 {
			continue
		}
		state, err := module.manifest.Migrate(oldVersion, slot, rest[:length:length])
		if err != nil {
			return host.Blobs{}, err
		}
		rest = rest[length:]
		if !allZero(state) {
			answer.Lengths[i] = uint32(len(state))
			answer.Data = append(answer.Data, state...)
		}
	}
	return answer, nil
}
