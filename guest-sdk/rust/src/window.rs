//! A window that slides: kept in pieces, so that a reading rewrites one of them.

use crate::helpers::{TumblingWindow, Window, greatest, least};
use crate::state::DeviceState;
use crate::{Device, Timestamp};

/// The last `span` of a value of each device, in pieces: it moves on by a piece at a time.
///
/// It is a field of the rule, not of its state, and takes as many slots as it has pieces, from the first one
/// on. A [`crate::DeviceRule`] names it in [`crate::DeviceRule::windows`], and the SDK loads and saves it; a
/// [`crate::Rule`] calls [`SlidingWindow::load`] and [`SlidingWindow::save`], as it does with
/// [`DeviceState`].
pub struct SlidingWindow {
    /// Microseconds of a piece.
    length: i64,
    /// One for each slot; the piece of an index is in the slot of its remainder.
    pieces: Vec<DeviceState<TumblingWindow>>,
}

impl SlidingWindow {
    /// A window of `span` microseconds in `pieces` pieces, in the slots from `first_slot` on. Make that
    /// [`crate::slot_of`] a name: 0 and up is where state is usually.
    ///
    /// # Panics
    /// Without pieces, and where a piece would be shorter than a microsecond.
    pub fn new(first_slot: u32, pieces: u32, span: i64) -> Self {
        assert!(pieces > 0, "a sliding window has at least one piece");
        let length = span / i64::from(pieces);
        assert!(length > 0, "a sliding window of {span} microseconds does not fall into {pieces} pieces");
        let slots = (0..pieces).map(|piece| DeviceState::new(first_slot.wrapping_add(piece)));
        Self { length, pieces: slots.collect() }
    }

    /// Loads the pieces of those of the devices that were not met before.
    pub fn load(&mut self, devices: &[Device]) {
        self.pieces.iter_mut().for_each(|piece| piece.load(devices));
    }

    /// Stores the pieces that changed.
    pub fn save(&mut self) {
        self.pieces.iter_mut().for_each(DeviceState::save);
    }

    /// Takes a value in. One that is older than the whole window is left aside.
    pub fn add(&mut self, device: impl Into<Device>, time: Timestamp, x: f64) {
        let index = time.div_euclid(self.length);
        let place = self.place(index);
        self.pieces[place].update(device.into(), |piece| piece.add_to(index, x));
    }

    /// What is in the window that ends with the piece of this time. Without a value in it, `count` is 0 and
    /// `min`, `max` and `mean` are NaN.
    pub fn over(&self, device: impl Into<Device>, time: Timestamp) -> Window {
        let device = device.into();
        let last = time.div_euclid(self.length);
        let first = last.saturating_sub(self.pieces.len() as i64 - 1);
        let pieces = (first..=last).map(|index| (index, self.pieces[self.place(index)].get(device)));
        let held = pieces.filter(|(index, piece)| piece.count > 0 && piece.index == *index);
        sum_of(held.map(|(_, piece)| piece), first.saturating_mul(self.length), self.end_of(last))
    }

    fn end_of(&self, index: i64) -> Timestamp {
        index.saturating_add(1).saturating_mul(self.length)
    }

    fn place(&self, index: i64) -> usize {
        index.rem_euclid(self.pieces.len() as i64) as usize
    }
}

impl TumblingWindow {
    /// As a piece: a later index replaces it, an earlier one is too late.
    fn add_to(&mut self, index: i64, x: f64) {
        if self.count > 0 && self.index > index {
            return;
        }
        if self.index != index {
            *self = Self { index, ..Self::default() };
        }
        self.take(x);
    }
}

/// Pieces, oldest first.
fn sum_of(pieces: impl Iterator<Item = TumblingWindow>, start: Timestamp, end: Timestamp) -> Window {
    let (mut count, mut sum, mut min, mut max) = (0_i64, 0.0, f64::NAN, f64::NAN);
    for piece in pieces {
        sum += piece.sum;
        (min, max) = if count == 0 {
            (piece.min, piece.max)
        } else {
            (least(min, piece.min), greatest(max, piece.max))
        };
        count = count.saturating_add(piece.count);
    }
    let mean = if count == 0 { f64::NAN } else { sum / count as f64 };
    Window { start, end, count, sum, min, max, mean }
}
