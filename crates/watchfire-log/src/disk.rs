//! The files of the log, behind a small trait: the real ones here, simulated ones that tear writes and
//! forget what was not synced in [`sim`].

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

pub mod sim;

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Makes a file of this length, of zeros, with its space set aside. It is there after a crash once
    /// [`Disk::sync_directory`] returned.
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file; those who have it open go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes durable which files there are.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes that could still be written.
    fn free(&self) -> io::Result<u64>;
    /// Replaces a small file: after a crash it has the old or the new content, once this returned the new.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;
    /// Keeps other processes out for as long as the value lives. `None`: another one has the folder.
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
    /// The folder, for messages.
    fn name(&self) -> String;
}

/// One file.
pub trait DiskFile: Send + Sync {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Writes all the bytes at a place.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable (`fdatasync`). After an error nobody knows what is.
    fn sync_data(&self) -> io::Result<()>;
    /// Reads until the buffer is full or the file ends; gives the number of bytes.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Cuts the file off.
    fn truncate(&self, length: u64) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// The folder; it is made where it is missing.
    pub fn new(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            std::fs::create_dir_all(folder)?;
            if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { folder: folder.to_path_buf() })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let allocate = || {
            match fallocate(&file, FallocateFlags::empty(), 0, length) {
                Ok(()) => {}
                // A file system that cannot set space aside: the length alone still spares each sync
                // from writing it.
                Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(length)?,
                Err(error) => return Err(error.into()),
            }
            file.sync_all()
        };
        if let Err(error) = allocate() {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.folder.join(name);
        // What is only looked at may belong to somebody else.
        let file = OpenOptions::new().read(true).write(true).open(&path).or_else(|_| File::open(&path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.folder)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let stat = statvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!("{name}.new"));
        let file = File::create(&temporary)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.folder.join(name))?;
        self.sync_directory()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.folder.join("LOCK"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}
