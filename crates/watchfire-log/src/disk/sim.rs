//! Files in memory that behave as badly as real ones may: a crash keeps any part of what was not synced,
//! sector by sector; a failed sync drops it silently (the page cache shows it until the crash); the disk
//! fills up; bits flip. Everything random comes from one seed.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// What a write changes at once, or not at all.
const SECTOR: u64 = 512;

/// A simulated folder. Clones are the same folder.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    files: BTreeMap<String, Content>,
    /// Files whose directory entry is durable, with the content they had then.
    named: BTreeSet<String>,
    /// Files whose removal is not durable yet.
    removed: BTreeMap<String, Content>,
    capacity: u64,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    failing_syncs: u32,
    failing_writes: u32,
    syncs: u64,
    reads: u64,
    locked: bool,
}

type Content = Arc<Mutex<FileState>>;

#[derive(Clone, Default)]
struct FileState {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    dirty: BTreeSet<u64>,
    /// Sectors that a failed sync claimed to be clean.
    forgotten: BTreeSet<u64>,
}

impl State {
    fn random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Counts an operation that changes something. An error: the machine is off, or goes off within it.
    fn operate(&mut self) -> io::Result<()> {
        if self.crashed {
            return Err(io::Error::other("the simulated machine is off"));
        }
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            self.crashed = true;
            return Err(io::Error::other("the simulated machine went off"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.files.values().map(|content| lock(content).volatile.len() as u64).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl SimDisk {
    /// An empty folder on a disk of 1 GiB.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                random: seed,
                files: BTreeMap::new(),
                named: BTreeSet::new(),
                removed: BTreeMap::new(),
                capacity: 1 << 30,
                operations: 0,
                crash_at: None,
                crashed: false,
                failing_syncs: 0,
                failing_writes: 0,
                syncs: 0,
                reads: 0,
                locked: false,
            })),
        }
    }

    /// The machine goes off within the operation (write, sync, create, remove) that is so many from now.
    pub fn crash_after(&self, operations: u64) {
        let mut state = lock(&self.state);
        state.crash_at = Some(state.operations + operations);
    }

    /// Whether the machine is off.
    pub fn crashed(&self) -> bool {
        lock(&self.state).crashed
    }

    /// The machine goes off now, if it is not yet, and on again: what the disk then holds. The old folder
    /// stays dead.
    pub fn restart(&self) -> Self {
        let mut state = lock(&self.state);
        state.crashed = true;
        let mut files = BTreeMap::new();
        let present: Vec<(String, Content, bool)> = {
            let named = &state.named;
            let kept = state
                .files
                .iter()
                .map(|(name, content)| (name.clone(), content.clone(), named.contains(name)));
            let gone = state.removed.iter().map(|(name, content)| (name.clone(), content.clone(), false));
            kept.chain(gone).collect()
        };
        for (name, content, certain) in present {
            if !certain && state.random().is_multiple_of(2) {
                continue;
            }
            let after = survive(&lock(&content), &mut state);
            files.entry(name).or_insert_with(|| Arc::new(Mutex::new(after)));
        }
        let restarted = Self::new(state.random());
        {
            let mut new = lock(&restarted.state);
            new.named = files.keys().cloned().collect();
            new.files = files;
            new.capacity = state.capacity;
        }
        restarted
    }

    /// The process ends, but the machine does not: nothing is lost, and the old folder is dead.
    pub fn kill(&self) -> Self {
        let mut state = lock(&self.state);
        state.crashed = true;
        let killed = Self::new(state.random());
        {
            let mut new = lock(&killed.state);
            new.files = state
                .files
                .iter()
                .map(|(name, content)| (name.clone(), Arc::new(Mutex::new(lock(content).clone()))))
                .collect();
            new.named = state.named.clone();
            new.removed = state.removed.clone();
            new.capacity = state.capacity;
        }
        killed
    }

    /// The next syncs of a file fail. What they should have made durable is lost with the next crash,
    /// even if a later sync of the file succeeds.
    pub fn fail_syncs(&self, count: u32) {
        lock(&self.state).failing_syncs = count;
    }

    /// The next writes fail, with a part of their bytes written.
    pub fn fail_writes(&self, count: u32) {
        lock(&self.state).failing_writes = count;
    }

    /// Bytes that fit onto the disk.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.state).capacity = bytes;
    }

    /// Flips a bit, on the disk and in memory.
    pub fn flip(&self, name: &str, at: u64, bit: u8) {
        let state = lock(&self.state);
        if let Some(content) = state.files.get(name) {
            let mut content = lock(content);
            let at = at as usize;
            if let Some(byte) = content.volatile.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
            if let Some(byte) = content.durable.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// The bytes of a file, as a process sees them.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.state).files.get(name).map(|content| lock(content).volatile.clone())
    }

    /// How often something was read from a file.
    pub fn reads(&self) -> u64 {
        lock(&self.state).reads
    }

    /// How often a file was synced.
    pub fn syncs(&self) -> u64 {
        lock(&self.state).syncs
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }
}

fn survive(content: &FileState, state: &mut State) -> FileState {
    // The length is metadata: old or new where they differ.
    let length = if content.durable.len() == content.volatile.len() || state.random().is_multiple_of(2) {
        content.volatile.len()
    } else {
        content.durable.len()
    };
    let mut after = content.durable.clone();
    after.resize(length, 0);
    for &sector in &content.dirty {
        // Written back by chance before the power went.
        if state.random().is_multiple_of(2) {
            copy_sector(&content.volatile, &mut after, sector);
        }
    }
    FileState { volatile: after.clone(), durable: after, ..FileState::default() }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = (sector * SECTOR) as usize;
    let end = (start + SECTOR as usize).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        state.operate()?;
        if state.files.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is there")));
        }
        if state.used() + length > state.capacity {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        let zeros = vec![0; length as usize];
        let content = Arc::new(Mutex::new(FileState {
            volatile: zeros.clone(),
            durable: zeros,
            ..FileState::default()
        }));
        state.files.insert(name.into(), content.clone());
        Ok(Arc::new(SimFile { state: self.state.clone(), content }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = lock(&self.state);
        let content = state.files.get(name).ok_or_else(|| missing(name))?.clone();
        Ok(Arc::new(SimFile { state: self.state.clone(), content }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        let content = state.files.remove(name).ok_or_else(|| missing(name))?;
        if state.named.remove(name) {
            state.removed.insert(name.into(), content);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        state.named = state.files.keys().cloned().collect();
        state.removed.clear();
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let state = lock(&self.state);
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        let file =
            FileState { durable: content.to_vec(), volatile: content.to_vec(), ..FileState::default() };
        state.files.insert(name.into(), Arc::new(Mutex::new(file)));
        state.named.insert(name.into());
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        struct Held(SimDisk);
        impl Drop for Held {
            fn drop(&mut self) {
                lock(&self.0.state).locked = false;
            }
        }
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Held(self.clone()))))
    }

    fn name(&self) -> String {
        "simulated disk".into()
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    content: Content,
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.content).volatile.len() as u64)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let was_on = !state.crashed;
        let outcome = state.operate();
        let failing = state.failing_writes > 0;
        state.failing_writes = state.failing_writes.saturating_sub(1);
        let done = match &outcome {
            Ok(()) if !failing => bytes.len(),
            _ if was_on => (state.random() % (bytes.len() as u64 + 1)) as usize,
            _ => 0,
        };
        let mut content = lock(&self.content);
        let end = at as usize + done;
        if content.volatile.len() < end {
            content.volatile.resize(end, 0);
        }
        content.volatile[at as usize..end].copy_from_slice(&bytes[..done]);
        if done > 0 {
            for sector in at / SECTOR..=(end as u64 - 1) / SECTOR {
                content.dirty.insert(sector);
                content.forgotten.remove(&sector);
            }
        }
        outcome?;
        if failing { Err(io::Error::other("a simulated write error")) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.operate()?;
        state.syncs += 1;
        let mut guard = lock(&self.content);
        let content = &mut *guard;
        let dirty = std::mem::take(&mut content.dirty);
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            content.forgotten.extend(dirty);
            return Err(io::Error::other("a simulated sync error"));
        }
        content.durable.resize(content.volatile.len(), 0);
        for sector in dirty {
            copy_sector(&content.volatile, &mut content.durable, sector);
        }
        Ok(())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.state).reads += 1;
        let content = lock(&self.content);
        let bytes = content.volatile.get(at as usize..).unwrap_or(&[]);
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        lock(&self.state).operate()?;
        let mut content = lock(&self.content);
        content.volatile.truncate(length as usize);
        let sectors = length.div_ceil(SECTOR);
        content.dirty.split_off(&sectors);
        Ok(())
    }
}
