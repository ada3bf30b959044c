//! Bytes of uploads that are being received or wait for the disk: bounded in sum, and for each address.
//!
//! Bytes count as they come, not as they are announced: a client that announces much and sends nothing takes nothing
//! from others. Where there is no room, an upload is refused at once and sent again later; none waits for another,
//! so that no two can wait for each other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(super) struct Uploads {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    bytes: usize,
    by_address: HashMap<Option<IpAddr>, usize>,
}

/// The bytes of one upload; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Upload<'u> {
    uploads: &'u Uploads,
    address: Option<IpAddr>,
    bytes: usize,
}

impl Uploads {
    /// `most`: bytes in all. One address may have half of them.
    pub(super) fn new(most: usize) -> Self {
        Self { most, table: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, address: Option<IpAddr>) -> Upload<'_> {
        Upload { uploads: self, address, bytes: 0 }
    }
}

impl Upload<'_> {
    /// Takes room for more bytes; `false`: there is none.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let mut table = self.uploads.lock();
        let here = table.by_address.get(&self.address).copied().unwrap_or(0);
        if table.bytes + bytes > self.uploads.most || here + bytes > self.uploads.most / 2 {
            return false;
        }
        table.bytes += bytes;
        table.by_address.insert(self.address, here + bytes);
        self.bytes += bytes;
        true
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut table = self.uploads.lock();
        table.bytes -= self.bytes;
        if let Some(here) = table.by_address.get_mut(&self.address) {
            *here -= self.bytes;
            if *here == 0 {
                table.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_bounded_in_sum_and_for_each_address() {
        let uploads = Uploads::new(100);
        let of = |last: u8| uploads.begin(Some(IpAddr::from([10, 0, 0, last])));
        let (mut a, mut b, mut c) = (of(1), of(2), of(3));
        assert!(a.grow(30) && a.grow(20) && !a.grow(1));
        assert!(b.grow(50) && !c.grow(1));
        drop(a);
        assert!(c.grow(1));
        drop((b, c));
        assert!(uploads.lock().bytes == 0 && uploads.lock().by_address.is_empty());
    }
}
