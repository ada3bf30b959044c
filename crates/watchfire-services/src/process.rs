//! A server process: its folder, its output, and its end.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Failure;

/// How long a server may take to answer: a cold Kafka on a machine that compiles meanwhile took half a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// Remembers the newest process group that it is told of; at the end of its input, which is the end of our process
/// however it ends, it kills that group and removes the folder. Without it, servers held by statics, and those of a
/// test binary that was itself killed, would stay.
const KEEPER: &str = r#"while read -r group; do last=$group; done; [ "${last:-0}" = 0 ] || kill -KILL -- "-$last"; rm -rf -- "$1""#;

/// A server in a process group and a folder of its own.
pub(crate) struct Process {
    what: &'static str,
    folder: PathBuf,
    child: Option<Child>,
    keeper: Child,
    to_keeper: Option<ChildStdin>,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Process {
    /// A folder for a server, and nothing that runs yet.
    pub(crate) fn new(what: &'static str) -> Result<Self, Failure> {
        let broken = |error: std::io::Error| Failure::broken(what, error);
        let folder =
            tempfile::Builder::new().prefix(&format!("watchfire-{what}-")).tempdir().map_err(broken)?.keep();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal must not end it before it has done its work.
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        let to_keeper = keeper.stdin.take();
        Ok(Self {
            what,
            folder,
            child: None,
            keeper,
            to_keeper,
            command: Box::new(|| Command::new("true")),
            ready: Box::new(|| true),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts it and waits until it is ready; the same two serve for every restart.
    pub(crate) fn run(
        &mut self,
        command: impl Fn() -> Command + Send + Sync + 'static,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        self.command = Box::new(command);
        self.ready = Box::new(ready);
        self.start()
    }

    /// Starts it again, with the data that is there. Where it runs, nothing happens.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while self.child.is_none() {
            let log = self.log().map_err(|error| Failure::broken(self.what, error))?;
            let errors = log.try_clone().map_err(|error| Failure::broken(self.what, error))?;
            let mut command = (self.command)();
            command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
            let child = command.spawn().map_err(|error| Failure::broken(self.what, error))?;
            self.tell_keeper(child.id());
            self.child = Some(child);
            // Right after a kill the port, or PostgreSQL's shared memory, may be held for a moment: once more then.
            if !self.becomes_ready(deadline) && Instant::now() > deadline {
                self.kill();
                return Err(Failure::Broken(format!("{} does not become ready\n{}", self.what, self.said())));
            }
        }
        Ok(())
    }

    /// Whether it answers; if not, it has ended or the deadline is over.
    fn becomes_ready(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            if (self.ready)() {
                return true;
            }
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            std::thread::sleep(Duration::from_millis(20));
            if ended {
                self.child = None;
                self.tell_keeper(0);
                std::thread::sleep(Duration::from_millis(180));
                return false;
            }
        }
        false
    }

    /// What one start ended with, where it ended by itself: a start that can never work is not repeated for long.
    pub(crate) fn start_once(
        &mut self,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        let output =
            command().stdin(Stdio::null()).output().map_err(|error| Failure::broken(self.what, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Err(Failure::Broken(format!("{}: {}\n{said}", self.what, output.status)))
    }

    /// Which process it is, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// As kill -9 of it and everything that it started.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Asks it to end with a signal, and waits until it has.
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => std::thread::sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
        self.kill();
    }

    /// Sends a signal to all of its processes.
    pub(crate) fn signal(&self, signal: Signal) {
        let group = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
    }

    fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
            self.tell_keeper(0);
        }
    }

    fn tell_keeper(&mut self, group: u32) {
        if let Some(keeper) = &mut self.to_keeper {
            let _ = writeln!(keeper, "{group}");
        }
    }

    fn log(&self) -> std::io::Result<File> {
        File::options().create(true).append(true).open(self.folder.join("output"))
    }

    /// The end of what it printed.
    pub(crate) fn said(&self) -> String {
        let text = std::fs::read(self.folder.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
        drop(self.to_keeper.take());
        let _ = self.keeper.wait();
    }
}

/// A free port below those that the system gives to outgoing connections: one of these could take the port while its
/// server is down.
pub(crate) fn free_port() -> Result<u16, Failure> {
    for _ in 0..100 {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::Broken("no free port was found".into()))
}

/// Whether a program is found by its name.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Servers often lie where only the superuser's path leads.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
