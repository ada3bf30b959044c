//! `timers`.

use wasmtime::Result;
use watchfire_model::Timestamp;
use watchfire_model::call::{Timer, TimerEffect};

use crate::bindings::timers;
use crate::data::{Data, Need};
use crate::failure::trap;

impl Data {
    fn change_timers(
        &mut self,
        function: &'static str,
        timers: Vec<timers::Timer>,
        effect: impl Fn(Timer) -> TimerEffect,
    ) -> Result<()> {
        self.enter(function, Need::Callback)?;
        if !self.hears_timers {
            return Err(trap(format!("{function}: the module does not export timer-handler")));
        }
        self.count_effects(timers.len())?;
        for timer in timers {
            let device = self.check_device(function, timer.device)?;
            let timer = Timer { device, tag: timer.tag, at: Timestamp(timer.at) };
            self.effects.timers.push(effect(timer));
        }
        Ok(())
    }
}

impl timers::Host for Data {
    fn set(&mut self, timers: Vec<timers::Timer>) -> Result<()> {
        self.change_timers("timers.set", timers, TimerEffect::Set)
    }

    fn cancel(&mut self, timers: Vec<timers::Timer>) -> Result<()> {
        self.change_timers("timers.cancel", timers, TimerEffect::Cancel)
    }
}
