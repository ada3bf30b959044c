//! Commands that talk to a server over its API. Each exits 0 when done, 1 when refused or failed, 2 when
//! used wrongly.
//!
//! [`RuleCommand`] stands apart from [`Command`], so that the local commands `rule new|build|test|check` can be
//! flattened beside it.

mod alert;
mod apply;
mod client;
mod device;
mod other;
mod plan;
mod route;
mod rule;
mod silence;
mod table;
mod top;
mod why;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

pub use client::ClientError;
pub(crate) use client::{Client, segment};
pub use route::{RouteCommand, run_route};
pub use rule::RuleCommand;
pub(crate) use rule::{pair, with_values};
use table::Output;

/// What every command that talks to a server takes.
#[derive(Args, Clone, Debug)]
pub struct GlobalOptions {
    /// The server
    #[arg(long, global = true, env = "WATCHFIRE_SERVER", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// The token; on the machine of the server itself none is needed until the first is made
    #[arg(long, global = true, env = "WATCHFIRE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
}

/// Commands that talk to a server, but those about single rules.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make the rules of a folder so on the server: shows the difference first
    Apply(apply::Apply),
    /// Modules on the server
    #[command(subcommand)]
    Module(other::ModuleCommand),
    /// Devices
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Alerts
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// What nobody is told of for a while
    #[command(subcommand)]
    Silence(silence::SilenceCommand),
    /// Inputs that could not be used
    #[command(subcommand)]
    DeadLetter(other::DeadLetterCommand),
    /// Who was told what
    #[command(subcommand)]
    Delivery(other::DeliveryCommand),
    /// Tokens for people and programs
    #[command(subcommand)]
    Token(other::TokenCommand),
    /// Who is notified
    #[command(subcommand)]
    Receiver(other::ReceiverCommand),
    /// Where results flow to
    #[command(subcommand)]
    Sink(other::SinkCommand),
    /// Who did what
    #[command(subcommand)]
    Audit(other::AuditCommand),
    /// Write a backup of the running server to a file
    Backup {
        /// The file; must not exist yet
        file: PathBuf,
    },
    /// The clock of the server
    #[command(subcommand)]
    Clock(other::ClockCommand),
    /// How the server does
    Status,
}

/// Runs a command.
pub async fn run(command: Command, global: &GlobalOptions) -> ExitCode {
    finish(run_command(command, global).await)
}

/// Runs a command about a rule.
pub async fn run_rule(command: RuleCommand, global: &GlobalOptions) -> ExitCode {
    finish(async { rule::run(command, &Client::new(global)?, Output::new(global.json)).await }.await)
}

async fn run_command(command: Command, global: &GlobalOptions) -> Result<(), ClientError> {
    let (client, output) = (Client::new(global)?, Output::new(global.json));
    match command {
        Command::Apply(command) => apply::run(command, &client, output).await,
        Command::Module(command) => other::module(command, &client, output).await,
        Command::Device(command) => device::run(command, &client, output).await,
        Command::Alert(command) => alert::run(command, &client, output).await,
        Command::Silence(command) => silence::run(command, &client, output).await,
        Command::DeadLetter(command) => other::dead_letter(command, &client, output).await,
        Command::Delivery(command) => other::delivery(command, &client, output).await,
        Command::Token(command) => other::token(command, &client, output).await,
        Command::Receiver(command) => other::receiver(command, &client, output).await,
        Command::Sink(command) => other::sink(command, &client, output).await,
        Command::Audit(command) => other::audit(command, &client, output).await,
        Command::Backup { file } => other::backup(&file, &client, output).await,
        Command::Clock(command) => other::clock(command, &client, output).await,
        Command::Status => {
            output.document(&client.get("/status", &[]).await?);
            Ok(())
        }
    }
}

fn finish(result: Result<(), ClientError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may listen any more; there is nothing to do about that.
            let _ = writeln!(std::io::stderr(), "watchfire: {}", client::explain(&error));
            ExitCode::from(error.code())
        }
    }
}
