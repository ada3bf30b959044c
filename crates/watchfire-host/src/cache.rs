//! Compiled code on disk. A file here is native code that will run in this process, so the folder must be
//! ours alone, and what cannot be trusted is thrown away and compiled anew.
//!
//! A file's name says what it is of: the digest of the module, and a hash over the version of wasmtime, its
//! settings and the processor. Its content begins with the SHA-256 of the rest: a damaged file is found
//! before it is run. That protects from a failing disk, not from somebody who may write as this user.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;
use watchfire_model::Digest;

use crate::engine::Mode;

/// Bytes of code that are written before they are synced.
const PIECE: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in a folder, which is made, or made private, where needed.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let about = fs::metadata(folder)?;
        if about.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the folder of compiled rules belongs to another user",
            ));
        }
        if about.mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    fn path(&self, engine: &Engine, mode: Mode, digest: Digest) -> PathBuf {
        let mut hasher = Sha(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let settings: String = hasher.0.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{}-{settings}-{}.cwasm", digest.hex(), mode.name()))
    }

    /// The compiled code of a module, where it is there and good.
    pub(crate) fn load(&self, engine: &Engine, mode: Mode, digest: Digest) -> Option<Component> {
        let path = self.path(engine, mode, digest);
        let loaded = read(&path).and_then(|code| {
            // SAFETY: the bytes come from a file that only this user can write, in a folder that only this user can
            // enter, and their checksum is the one that `store` wrote with them: they are what the compiler gave.
            #[allow(unsafe_code)]
            unsafe {
                component(engine, &code)
            }
        });
        match loaded {
            Ok(component) => Some(component),
            Err(reason) if reason.is_empty() => None,
            Err(reason) => {
                tracing::warn!(module = %digest, %reason, "discarding compiled code");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps compiled code. A failure costs the next start a compile, nothing else.
    pub(crate) fn store(&self, engine: &Engine, mode: Mode, digest: Digest, code: &[u8]) {
        let write = || -> Result<(), String> {
            let path = self.path(engine, mode, digest);
            static ATTEMPT: AtomicU64 = AtomicU64::new(0);
            let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
            let temporary = path.with_extension(format!("{}-{attempt}.new", std::process::id()));
            let write = || -> io::Result<()> {
                // Left by a process that died: it may be anything.
                let _ = fs::remove_file(&temporary);
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
                file.write_all(&Sha256::digest(code))?;
                // Synced for the sake of the log, which may be on the same disk: a sync of it waits for whatever
                // the file system still has to write, and the code of Python is 40 MB. For this file alone
                // it would not be needed: after a power cut the checksum tells.
                for piece in code.chunks(PIECE) {
                    file.write_all(piece)?;
                    file.sync_data()?;
                }
                fs::rename(&temporary, &path)
            };
            write().map_err(|error| {
                let _ = fs::remove_file(&temporary);
                error.to_string()
            })
        };
        if let Err(reason) = write() {
            tracing::warn!(module = %digest, %reason, "compiled code is not kept");
        }
    }

    /// Forgets a module that was deleted.
    pub(crate) fn remove(&self, digest: Digest) {
        let prefix = digest.hex();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// What code is of. Wasmtime checks that it was compiled by this version with these settings.
///
/// # Safety
///
/// The bytes are what the compiler gave: they will run in this process.
#[allow(unsafe_code)]
pub(crate) unsafe fn component(engine: &Engine, code: &[u8]) -> Result<Component, String> {
    // SAFETY: as the caller says.
    unsafe { Component::deserialize(engine, code) }.map_err(|error| format!("{error:#}"))
}

/// The code in a file, or why it is not used; empty: it is not there.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(String::new()),
        Err(error) => return Err(error.to_string()),
    };
    let about = file.metadata().map_err(|error| error.to_string())?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
        return Err("others can write it".into());
    }
    let mut checksum = [0; 32];
    file.read_exact(&mut checksum).map_err(|error| error.to_string())?;
    let mut code = Vec::with_capacity(usize::try_from(about.len()).unwrap_or_default());
    file.read_to_end(&mut code).map_err(|error| error.to_string())?;
    if Sha256::digest(&code)[..] != checksum {
        return Err("its checksum does not match".into());
    }
    Ok(code)
}

/// Hashes by SHA-256: the standard hasher may change with the compiler, and would then lose the cache.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        0
    }
}
