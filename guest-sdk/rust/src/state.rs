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
    /// Whether both are the same bytes in state: NaN is the same as NaN, and -0 is not the same as 0.
    #[inline]
    fn same(self, other: Self) -> bool {
        let mut both = vec![0; 2 * Self::SIZE];
        let (own, others) = both.split_at_mut(Self::SIZE);
        self.put(own);
        other.put(others);
        own == others
    }
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
            #[inline]
            fn same(self, other: Self) -> bool {
                self.to_le_bytes() == other.to_le_bytes()
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
    #[inline]
    fn same(self, other: Self) -> bool {
        self == other
    }
}

/// Fixed arrays: one entry behind the other.
impl<T: Field, const N: usize> Field for [T; N] {
    const SIZE: usize = N * T::SIZE;
    #[inline]
    fn put(self, bytes: &mut [u8]) {
        for (entry, own) in self.into_iter().zip(bytes.chunks_exact_mut(T::SIZE)) {
            entry.put(own);
        }
    }
    #[inline]
    fn take(bytes: &[u8]) -> Self {
        std::array::from_fn(|i| T::take(&bytes[i * T::SIZE..(i + 1) * T::SIZE]))
    }
    #[inline]
    fn same(self, other: Self) -> bool {
        self.into_iter().zip(other).all(|(own, other)| own.same(other))
    }
}

/// State within state, as the helpers are: its fields, in their order.
impl<T: State> Field for T {
    const SIZE: usize = <T as State>::SIZE;
    #[inline]
    fn put(self, bytes: &mut [u8]) {
        self.write(bytes);
    }
    #[inline]
    fn take(bytes: &[u8]) -> Self {
        Self::read(bytes)
    }
    #[inline]
    fn same(self, other: Self) -> bool {
        State::same(&self, &other)
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
    /// Whether both are the same bytes. [`crate::state!`] compares field by field.
    fn same(&self, other: &Self) -> bool {
        bytes_of(self) == bytes_of(other)
    }
}

/// The bytes that a state is kept as; none where it is nothing. What a migration gives back.
pub fn bytes_of<T: State>(state: &T) -> Vec<u8> {
    let mut bytes = vec![0; T::SIZE];
    state.write(&mut bytes);
    if is_nothing(&bytes) {
        bytes.clear();
    }
    bytes
}

/// The state that a blob holds, if it has the size of one. What a migration reads its old state with.
pub fn state_of<T: State>(blob: &[u8]) -> Option<T> {
    (blob.len() == T::SIZE).then(|| T::read(blob))
}

/// Whether this is what is not stored: all zero. What is not shows that in its first words.
fn is_nothing(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| u64::from_le_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// A rule that keeps nothing.
impl State for () {
    const SIZE: usize = 0;
    fn write(&self, _: &mut [u8]) {}
    fn read(_: &[u8]) -> Self {}
    fn same(&self, _: &Self) -> bool {
        true
    }
}

/// A struct of fields of fixed size, with its layout in state: fields in the order written, little-endian,
/// without gaps. Changing it is a new `state_version`. A field is a number, a flag, an array of them, or a
/// struct made by this macro, as the helpers of the crate are. All zero is "nothing", and is the default.
///
/// ```
/// use watchfire_rule::{Ewma, State, state};
///
/// state! {
///     /// Mean so far.
///     pub struct Mean { mean: f64, count: u32 }
/// }
/// state! {
///     struct All { usual: Ewma, last: [f64; 3], day: Mean }
/// }
/// assert_eq!(Mean::SIZE, 12);
/// assert_eq!(All::SIZE, 24 + 24 + 12);
/// ```
#[macro_export]
macro_rules! state {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_visibility:vis $field:ident : $type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        $visibility struct $name {
            $($(#[$field_meta])* $field_visibility $field: $type),*
        }
        // Not derived: an array of more than 32 entries has no default of its own.
        impl ::std::default::Default for $name {
            #[inline]
            fn default() -> Self {
                <Self as $crate::State>::read(&[0; <Self as $crate::State>::SIZE])
            }
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
            #[inline]
            fn same(&self, other: &Self) -> bool {
                true $(& <$type as $crate::Field>::same(self.$field, other.$field))*
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
        if !State::same(&self.get(device), &value) {
            *self.modify(device) = value;
        }
    }

    /// Changes the state of a device that was loaded in place: it is stored again where it is another after.
    ///
    /// # Panics
    /// Where it was not loaded, and changes: what it had stored would be lost.
    #[inline]
    pub fn update<R>(&mut self, device: Device, change: impl FnOnce(&mut T) -> R) -> R {
        let Some(Some(page)) = self.pages.get_mut(device as usize / PAGE) else { not_loaded(device) };
        let value = &mut page.values[device as usize % PAGE];
        let before = *value;
        let answer = change(value);
        if !State::same(value, &before) {
            let bit = 1_u64 << (device as usize % PAGE);
            if page.loaded & bit == 0 {
                not_loaded(device);
            }
            if page.dirty & bit == 0 {
                page.dirty |= bit;
                self.dirty.push(device);
            }
        }
        answer
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
            _ => not_loaded(device),
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
            let own = &mut data[at..at + T::SIZE];
            value.write(own);
            // By its bytes, not by `==`: -0 is no 0, and the next instance must find what this one had.
            if is_nothing(own) {
                lengths.push(0);
                page.stored &= !bit;
                self.occupied -= usize::from(had);
            } else {
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

#[cold]
fn not_loaded(device: Device) -> ! {
    panic!("the state of device {device} was not loaded")
}
