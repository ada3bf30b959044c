//! Mosquitto, an MQTT broker, with its state kept over restarts.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::process::{Process, free_port, on_path};
use crate::{Failure, wire};

/// A broker that keeps sessions and messages on the disk.
pub struct Mosquitto {
    process: Process,
    port: u16,
}

impl Mosquitto {
    /// A broker that lets everybody in.
    pub fn start() -> Result<Self, Failure> {
        Self::start_with("allow_anonymous true")
    }

    /// A broker with these lines of configuration for its listener, such as `allow_anonymous true`, `password_file …`
    /// or `cafile …`.
    pub fn start_with(lines: &str) -> Result<Self, Failure> {
        let program = on_path("mosquitto")
            .ok_or_else(|| Failure::Missing("there is no Mosquitto: install the package mosquitto".into()))?;
        let mut process = Process::new("mosquitto")?;
        let port = free_port()?;
        let folder = process.folder().to_owned();
        // Saved at each change: a session must outlive kill -9, or a test of ours would blame us for what it lost.
        let mut text = format!(
            "listener {port} 127.0.0.1\n{lines}\npersistence true\npersistence_location {}/\n\
             autosave_on_changes true\nautosave_interval 1\nmax_queued_messages 0\n",
            folder.display()
        );
        if rustix::process::geteuid().is_root() {
            // It would become a user that cannot write into our folder.
            text.push_str("user root\n");
        }
        let file = folder.join("mosquitto.conf");
        std::fs::write(&file, text).map_err(|error| Failure::broken("mosquitto", error))?;
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("-c").arg(&file);
            command
        };
        // A refused client is an answer as well; with TLS there is only the open port to see.
        let ready = move || {
            let answer = wire::mqtt_connect(port, "ready");
            !answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        process.run(command, ready)?;
        Ok(Self { process, port })
    }

    /// Puts a user with a password into a file for `password_file`.
    pub fn set_password(file: &Path, user: &str, password: &str) -> Result<(), Failure> {
        let program = on_path("mosquitto_passwd").ok_or_else(|| {
            Failure::Missing("there is no mosquitto_passwd: install the package mosquitto".into())
        })?;
        let output = Command::new(program).arg("-b").arg(file).args([user, password]).output();
        let output = output.map_err(|error| Failure::broken("mosquitto_passwd", error))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Failure::Broken(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// The address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process.stop(Signal::TERM);
    }

    /// Starts it again on the same port with what it kept.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.start()
    }

    /// Holds it where it is: a broker that does not answer.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        self.process.said()
    }
}
