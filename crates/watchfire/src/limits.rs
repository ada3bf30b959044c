//! What the operating system allows this process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of open files to what is allowed at most: each connection is one, and the soft limit is
/// often 1024 for the sake of programs that use `select`.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the number of open files could not be raised");
        }
    }
}
