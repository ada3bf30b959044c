//! The disk alone: what durable figures stand beside.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tempfile::TempDir;

/// Bytes that the log writes for a reading of five metrics: device, time and five columns.
pub const ROW: usize = 4 + 8 + 5 * 8;

/// A folder in the target folder, on the disk that the project is on: the one for temporary files may be memory.
pub fn folder() -> Result<TempDir> {
    let target = std::env::current_exe()?;
    Ok(tempfile::tempdir_in(target.parent().unwrap_or(Path::new(".")))?)
}

/// Rows per second of plain writes, each followed by fdatasync, of so many groups of so many rows.
pub fn plain(path: &Path, groups: usize, rows: usize) -> Result<f64> {
    let payload = vec![0x5a; rows * ROW + 200];
    let mut file = File::create(path)?;
    // Preallocated, as segments are: else each sync writes the new length too.
    let length = (groups * payload.len()) as u64;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length)?;
    file.sync_all()?;
    let began = Instant::now();
    for _ in 0..groups {
        file.write_all(&payload)?;
        file.sync_data()?;
    }
    Ok((groups * rows) as f64 / began.elapsed().as_secs_f64())
}
