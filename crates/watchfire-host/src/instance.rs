//! A module at work: one callback at a time.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::{Result, Store};
use watchfire_model::KeyedState;
use watchfire_model::call::{CallFailure, Callback, Context, Cost, FailureKind, Instance, Outcome, Setup};

use crate::bindings::{handler, schedule_handler, silence_handler, timer_handler, timers};
use crate::compile::Compiled;
use crate::data::{Data, Phase};
use crate::engine::Ticker;
use crate::failure;
use crate::module::ticks;

pub(crate) struct RunningInstance {
    rule: String,
    replay: bool,
    ticks: u64,
    store: Store<Data>,
    handler: handler::Guest,
    timers: Option<timer_handler::Guest>,
    silence: Option<silence_handler::Guest>,
    schedules: Option<schedule_handler::Guest>,
    dead: bool,
    _ticker: Arc<Ticker>,
}

impl RunningInstance {
    pub(crate) fn new(
        setup: &Setup,
        mut store: Store<Data>,
        compiled: &Compiled,
        instance: &wasmtime::component::Instance,
        handler: handler::Guest,
        ticker: Arc<Ticker>,
    ) -> Result<Self> {
        Ok(Self {
            rule: setup.rule.clone(),
            replay: setup.replay,
            ticks: ticks(&setup.limits, setup.replay),
            timers: compiled.timers.as_ref().map(|timers| timers.load(&mut store, instance)).transpose()?,
            silence: compiled
                .silence
                .as_ref()
                .map(|silence| silence.load(&mut store, instance))
                .transpose()?,
            schedules: compiled
                .schedules
                .as_ref()
                .map(|schedules| schedules.load(&mut store, instance))
                .transpose()?,
            store,
            handler,
            dead: false,
            _ticker: ticker,
        })
    }

    /// The call itself: `Err` is a trap, `Ok(Err)` what the rule answered.
    fn run(&mut self, callback: Callback, context: Context) -> Result<Result<(), String>> {
        let phase = match &callback {
            Callback::Batch(_) => Phase::Batch,
            Callback::Timers(_) => Phase::Timers,
            Callback::Silence(_) => Phase::Silence,
            Callback::Schedule { .. } => Phase::Schedule,
        };
        let rows = match &callback {
            Callback::Batch(rows) => Some(rows.clone()),
            _ => None,
        };
        let data = self.store.data_mut();
        data.begin(phase, context, rows);
        let fuel = data.limits.fuel;
        self.store.set_epoch_deadline(self.ticks);
        if let Some(fuel) = fuel {
            self.store.set_fuel(fuel)?;
        }
        match callback {
            Callback::Batch(_) => self.handler.call_on_batch(&mut self.store),
            Callback::Timers(due) => {
                let Some(handler) = &self.timers else { return Ok(Err(missing("timer-handler"))) };
                let due: Vec<timers::Timer> = due
                    .into_iter()
                    .map(|timer| timers::Timer { device: timer.device.0, tag: timer.tag, at: timer.at.0 })
                    .collect();
                handler.call_on_timers(&mut self.store, &due)
            }
            Callback::Silence(devices) => {
                let Some(handler) = &self.silence else { return Ok(Err(missing("silence-handler"))) };
                let devices: Vec<silence_handler::SilentDevice> = devices
                    .into_iter()
                    .map(|silent| silence_handler::SilentDevice {
                        device: silent.device.0,
                        last: silent.last.map(|last| last.0),
                    })
                    .collect();
                handler.call_on_silence(&mut self.store, &devices)
            }
            Callback::Schedule { name, at } => {
                let Some(handler) = &self.schedules else { return Ok(Err(missing("schedule-handler"))) };
                handler.call_on_schedule(&mut self.store, &name, at.0)
            }
        }
    }
}

impl Instance for RunningInstance {
    fn call(&mut self, callback: Callback, context: Context) -> Outcome {
        if self.dead {
            let text = format!("rule {}: the instance is dead after an earlier failure", self.rule);
            return Outcome {
                state: context.state,
                result: Err(CallFailure::new(FailureKind::Trapped, text)),
                messages: Vec::new(),
                cost: Cost::default(),
            };
        }
        // Only a failure is described, so what it was for is kept until it is known: counts, no copies.
        let what = Described::of(&callback);
        let begun = Instant::now();
        let answer = self.run(callback, context);
        let nanoseconds = begun.elapsed().as_nanos() as u64;
        // Asked only where it is counted: elsewhere the answer is an error, which costs more than the call.
        let spent = self
            .store
            .data()
            .limits
            .fuel
            .map_or(0, |fuel| fuel.saturating_sub(self.store.get_fuel().unwrap_or(0)));
        let data = self.store.data_mut();
        // Looked at when everything has been asked for: what a call stores may replace what it stored before.
        let kept = if matches!(answer, Ok(Ok(()))) { data.check_kept() } else { Ok(()) };
        let effects = std::mem::take(&mut data.effects);
        let messages = if data.messages.is_empty() { Vec::new() } else { data.take_messages() };
        data.rows = None;
        let state = data.context.take().map_or_else(KeyedState::new, |context| context.state);
        let cost = Cost { nanoseconds, fuel: spent, host_calls: data.host_calls };
        let result = match answer {
            Ok(Ok(())) => kept.map(|()| effects).map_err(|text| {
                // What the guest remembers is not what was stored.
                self.dead = true;
                CallFailure::new(FailureKind::Output, format!("rule {}, {what}: {text}", self.rule))
            }),
            Ok(Err(text)) => {
                let text = failure::cut(format!("rule {}, {what}: {text}", self.rule));
                Err(CallFailure::new(FailureKind::Refused, text))
            }
            Err(error) => {
                self.dead = true;
                let limits = &self.store.data().limits;
                Err(failure::of_error(&error, &self.rule, &what.to_string(), limits, self.replay, &messages))
            }
        };
        Outcome { state, result, messages, cost }
    }

    fn memory(&self) -> u64 {
        self.store.data().memory.used
    }
}

fn missing(export: &str) -> String {
    format!("the module does not export {export}")
}

/// What a callback was for.
enum Described {
    Batch(usize),
    Timers(usize),
    Silence(usize),
    Schedule(String),
}

impl Described {
    fn of(callback: &Callback) -> Self {
        match callback {
            Callback::Batch(rows) => Self::Batch(rows.len()),
            Callback::Timers(due) => Self::Timers(due.len()),
            Callback::Silence(devices) => Self::Silence(devices.len()),
            Callback::Schedule { name, .. } => Self::Schedule(name.clone()),
        }
    }
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Batch(rows) => write!(f, "batch of {rows} rows"),
            Self::Timers(timers) => write!(f, "{timers} timers"),
            Self::Silence(devices) => write!(f, "silence of {devices} devices"),
            Self::Schedule(name) => write!(f, "schedule {name}"),
        }
    }
}
