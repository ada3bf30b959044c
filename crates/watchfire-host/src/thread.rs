//! What the operating system is asked for.

/// Gives the calling thread the lowest weight that still makes progress on a busy machine: compiling a
/// module must not delay the partitions. On Linux the priority is of a thread, not of the process.
pub(crate) fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 15) {
            tracing::debug!(%error, "the compiler keeps its priority");
        }
    }
}
