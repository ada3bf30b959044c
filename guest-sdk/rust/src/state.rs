//! State of devices: cached in the instance, loaded once for each device that is met, and written back flat
//! once a callback, only what changed.

use crate::Device;
use crate::bindings::watchfire::rule::types::Blobs;
use crate::bindings::watchfire::rule::{devices, state};

/// The slot for what a name stands for: FNV-1a (32 bit). A rule that keeps state by metric keeps each
/// metric's in the slot of its name, so that parameters may come in another order tomorrow.
pub const fn slot_of(name: &str) -> u32 {
    let (bytes, mut hash, mut i) = (name.as_bytes(), 0x811c_9dc5_u32, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// A value of fixed size, little-endian in state.
pub trait Field: Copy {
    /// Bytes.
    const SIZE: usize;
    /// Writes it into exactly [`Field::SIZE`] bytes.
    fn put(self, bytes: &mut [u8]);
    /// Reads it from exactly [`Field::SIZE`] bytes.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! fields {
    ($($type:ty)*) => {$(
        impl Field for $type {
            const SIZE: usize = size_of::<$type>();
            #[inline]
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn take(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        }
    )*};
}
fields!(f64 f32 i64 u64 i32 u32 i16 u16 i8 u8);

impl Field for bool {
    const SIZE: usize = 1;
    #[inline]
    fn put(self, bytes: &mut [u8]) {
        bytes[0] = self.into();
    }
    #[inline]
    fn take(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
}

/// What a rule keeps about one device in one slot. Made by [`crate::state!`]; the default is "nothing", and
/// is not stored.
pub trait State: Copy + Default + PartialEq {
    /// Bytes.
    const SIZE: usize;
    /// Writes it into exactly [`State::SIZE`] bytes.
    fn write(&self, bytes: &mut [u8]);
    /// Reads it from exactly [`State::SIZE`] bytes.
    fn read(bytes: &[u8]) -> Self;
}

/// A struct of fields of fixed size, with its layout in state: fields in the order written, little-endian,
/// without gaps. Changing it is a new `state_version`.
///
/// ```
/// use watchfire_rule::{State, state};
///
/// state! {
///     /// Mean so far.
///     pub struct Mean { mean: f64, count: u32 }
/// }
/// assert_eq!(Mean::SIZE, 12);
/// ```
#[macro_export]
macro_rules! state {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_visibility:vis $field:ident : $type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        $visibility struct $name {
            $($(#[$field_meta])* $field_visibility $field: $type),*
        }
        impl $crate::State for $name {
            const SIZE: usize = 0 $(+ <$type as $crate::Field>::SIZE)*;
            #[inline]
            fn write(&self, bytes: &mut [u8]) {
                let rest = bytes;
                $(
                    let (own, rest) = rest.split_at_mut(<$type as $crate::Field>::SIZE);
                    $crate::Field::put(self.$field, own);
                )*
                let _ = rest;
            }
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let rest = bytes;
                $(
                    let (own, rest) = rest.split_at(<$type as $crate::Field>::SIZE);
                    let $field = <$type as $crate::Field>::take(own);
                )*
                let _ = rest;
                Self { $($field),* }
            }
        }
    };
}

/// Devices of a page: one word of bits. A rule for few devices of many pays for their pages only.
const PAGE: usize = 64;

struct Page<T> {
    /// A bit for each device whose state is here.
    loaded: u64,
    /// A bit for each device that changed since [`DeviceState::save`].
    dirty: u64,
    /// A bit for each device that has a blob at the host.
    stored: u64,
    values: [T; PAGE],
}

/// Batches in which the registry did not change, after which [`DeviceState::covers_selected`] loads the rest.
/// An instance that lives for one callback never does.
const QUIET: u32 = 16;

/// Devices loaded at once.
const AT_ONCE: u32 = 4096;

/// State of one slot, by device. [`DeviceState::load`] what a callback meets, then get and set, and
/// [`DeviceState::save`] before it returns.
pub struct DeviceState<T> {
    slot: u32,
    pages: Vec<Option<Box<Page<T>>>>,
    dirty: Vec<Device>,
    missing: Vec<Device>,
    occupied: usize,
    version: u64,
    quiet: u32,
    complete: bool,
}

impl<T: State> DeviceState<T> {
    /// The state in a slot, nothing of it loaded.
    pub fn new(slot: u32) -> Self {
        Self {
            slot,
            pages: Vec::new(),
            dirty: Vec::new(),
            missing: Vec::new(),
            occupied: 0,
            version: u64::MAX,
            quiet: 0,
            complete: false,
        }
    }

    /// Loads the state of those of the devices that were not met before.
    pub fn load(&mut self, devices: &[Device]) {
        let Some(largest) = devices.iter().max() else { return };
        let pages = *largest as usize / PAGE + 1;
        if self.pages.len() < pages {
            self.pages.resize_with(pages, || None);
        }
        for &device in devices {
            let bit = 1_u64 << (device as usize % PAGE);
            let page = self.pages[device as usize / PAGE].get_or_insert_with(|| {
                Box::new(Page { loaded: 0, dirty: 0, stored: 0, values: [T::default(); PAGE] })
            });
            if page.loaded & bit == 0 {
                page.loaded |= bit;
                self.missing.push(device);
            }
        }
        if !self.missing.is_empty() {
            self.fetch();
        }
    }

    #[cold]
    fn fetch(&mut self) {
        let blobs = state::load(self.slot, &self.missing);
        let mut at = 0;
        for (&device, &length) in self.missing.iter().zip(&blobs.lengths) {
            let blob = &blobs.data[at..at + length as usize];
            at += length as usize;
            // A blob of another size is of another layout, which migration should have taken care of.
            if blob.len() == T::SIZE
                && let Some(page) = &mut self.pages[device as usize / PAGE]
            {
                page.values[device as usize % PAGE] = T::read(blob);
                page.stored |= 1 << (device as usize % PAGE);
                self.occupied += 1;
            }
        }
        self.missing.clear();
    }

    /// The state of a device that was loaded; the default where it has none.
    #[inline]
    pub fn get(&self, device: Device) -> T {
        match self.pages.get(device as usize / PAGE) {
            Some(Some(page)) => page.values[device as usize % PAGE],
            _ => T::default(),
        }
    }

    /// Changes the state of a device that was loaded.
    #[inline]
    pub fn set(&mut self, device: Device, value: T) {
        if self.get(device) != value {
            *self.modify(device) = value;
        }
    }

    /// The state of a device that was loaded, to be changed: it is stored again, changed or not.
    ///
    /// # Panics
    /// Where it was not loaded: what it had stored would be lost.
    #[inline]
    pub fn modify(&mut self, device: Device) -> &mut T {
        let bit = 1_u64 << (device as usize % PAGE);
        match self.pages.get_mut(device as usize / PAGE) {
            Some(Some(page)) if page.loaded & bit != 0 => {
                if page.dirty & bit == 0 {
                    page.dirty |= bit;
                    self.dirty.push(device);
                }
                &mut page.values[device as usize % PAGE]
            }
            _ => panic!("the state of device {device} was not loaded"),
        }
    }

    /// Stores what changed. To be called before each callback returns.
    pub fn save(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let mut lengths = Vec::with_capacity(self.dirty.len());
        let mut data = vec![0; self.dirty.len() * T::SIZE];
        let mut at = 0;
        for &device in &self.dirty {
            let Some(page) = &mut self.pages[device as usize / PAGE] else { continue };
            let bit = 1_u64 << (device as usize % PAGE);
            page.dirty &= !bit;
            let value = page.values[device as usize % PAGE];
            let had = page.stored & bit != 0;
            if value == T::default() {
                lengths.push(0);
                page.stored &= !bit;
                self.occupied -= usize::from(had);
            } else {
                value.write(&mut data[at..at + T::SIZE]);
                at += T::SIZE;
                lengths.push(T::SIZE as u32);
                page.stored |= bit;
                self.occupied += usize::from(!had);
            }
        }
        data.truncate(at);
        state::store(self.slot, &self.dirty, &Blobs { lengths, data });
        self.dirty.clear();
    }

    /// Whether the state of every device that the rule selects is here, so that a callback that changes
    /// nothing need not ask whose readings it got. `version` is that of the registry
    /// ([`devices::version`]). Once the registry was quiet for some batches, loads what is missing.
    pub fn covers_selected(&mut self, version: u64) -> bool {
        if self.version != version {
            (self.version, self.quiet, self.complete) = (version, 0, false);
        }
        if !self.complete {
            self.quiet += 1;
            if self.quiet > QUIET {
                self.load_selected();
                self.complete = true;
            }
        }
        self.complete
    }

    /// Loads the state of every device that the rule selects.
    pub fn load_selected(&mut self) {
        let mut after = None;
        loop {
            let some = devices::selected(after, AT_ONCE);
            let Some(&last) = some.last() else { return };
            self.load(&some);
            after = Some(last);
        }
    }

    /// How many of the devices loaded have state, as of the last [`DeviceState::save`].
    pub fn occupied(&self) -> usize {
        self.occupied
    }
}
