//! The command line: a table of contents. Everything is in the library.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use watchfire::commands::{self, ClientError, GlobalOptions};
use watchfire::config::Config;
use watchfire::{check, demo, limits, logs, project, restore, scenario, serve, simulate, telemetry};
use watchfire_log::SystemClock;

/// Alerts are many small texts that come on one thread and go on another: a tenth less of the processor, a fifth less
/// memory once all of them were listed, than with the allocator of the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rules and alerts for device fleets.
#[derive(Parser)]
#[command(name = "watchfire", version)]
struct Arguments {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the engine
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// The data folder, in place of what the configuration says
        #[arg(long)]
        data: Option<PathBuf>,
        /// A folder of components that are there as modules from the start
        #[arg(long)]
        rules: Option<PathBuf>,
    },
    /// Show the engine at work with a simulated fleet
    Demo(demo::Options),
    /// Connect a fleet of simulated devices over MQTT
    Simulate(simulate::Options),
    /// Say what is wrong with a configuration, if anything is
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Rules: write, build, test, deploy
    #[command(subcommand)]
    Rule(Rule),
    /// Who is told of what, by a configuration
    #[command(subcommand)]
    Route(commands::RouteCommand),
    /// Look into the log of an engine that does not run
    #[command(subcommand)]
    Log(logs::LogCommand),
    /// Make a data folder of a backup
    Restore(restore::Options),
    #[command(flatten)]
    Remote(commands::Command),
    /// What the engine runs in a process of its own: takes a module from the input, and gives its code
    #[command(hide = true)]
    CompileModule {
        /// How it is compiled
        mode: String,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration; without one the defaults hold
    #[arg(long, env = "WATCHFIRE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Rule {
    /// Make a rule project in a folder of its name
    New {
        /// Its name
        name: String,
        /// The language that it is written in
        #[arg(long, default_value = "rust")]
        language: String,
    },
    /// Compile a rule project to a component
    Build {
        /// The project, or a workspace of them
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// The folder that components are put into; the project's where it is not given
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Run the scenarios of a rule project
    Test(scenario::Options),
    /// Say what a server would say of a component, and what it costs
    Check(check::Options),
    #[command(flatten)]
    Remote(commands::RuleCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::CompileModule { mode } = &arguments.command {
        return watchfire_host::compile_module(mode);
    }
    // The only error is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    limits::raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("watchfire: threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(arguments));
    // What still blocks a thread then is a guest of the process, not the other way round.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    let global = arguments.global;
    let done = match arguments.command {
        Command::Serve { config, data, rules } => run_server(config, data, rules).await,
        Command::Demo(options) => demo::run(options).await,
        Command::Simulate(options) => simulate::run(options).await,
        Command::CheckConfig { config } => check_config(config, global.json),
        Command::Rule(Rule::New { name, language }) => new_rule(&name, &language, global.json),
        Command::Rule(Rule::Build { folder, output }) => build_rules(folder, output, global.json),
        Command::Rule(Rule::Test(options)) => scenario::run(options, &global).await,
        Command::Rule(Rule::Check(options)) => check::run(options, global.json),
        Command::Rule(Rule::Remote(command)) => return commands::run_rule(command, &global).await,
        Command::Route(command) => commands::run_route(command, global.json),
        Command::Log(command) => logs::run(command, global.json),
        Command::Restore(options) => restore::run(options, global.json),
        Command::Remote(command) => return commands::run(command, &global).await,
        // Done before there was a runtime.
        Command::CompileModule { .. } => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watchfire: {error:#}");
            // What was used wrongly ends with 2, as the parser of the command line does.
            error
                .downcast_ref::<ClientError>()
                .map_or(ExitCode::FAILURE, |error| ExitCode::from(error.code()))
        }
    }
}

async fn run_server(file: ConfigFile, data: Option<PathBuf>, rules: Option<PathBuf>) -> anyhow::Result<()> {
    // Called again at each reload.
    let load = move || {
        let mut config = Config::load(file.config.as_deref())?;
        if let Some(data) = &data {
            config.data = data.clone();
        }
        config.rules = rules.clone().or(config.rules);
        Ok(config)
    };
    telemetry::init(&load()?.telemetry);
    serve::run(load, Arc::new(SystemClock), watchfire_host::this_program()).await
}

fn check_config(file: ConfigFile, json: bool) -> anyhow::Result<()> {
    let config = Config::load(file.config.as_deref());
    if json {
        let document = match &config {
            Ok(config) => {
                serde_json::json!({"ok": true, "http": config.http.listen, "mqtt": config.mqtt.listen})
            }
            Err(error) => serde_json::json!({"ok": false, "error": watchfire_model::chain(error)}),
        };
        println!("{document}");
    }
    let config = config?;
    if !json {
        println!("the configuration can be used: http {}, mqtt {}", config.http.listen, config.mqtt.listen);
    }
    Ok(())
}

fn new_rule(name: &str, language: &str, json: bool) -> anyhow::Result<()> {
    let folder = project::new(name, language, &std::env::current_dir()?)?;
    if json {
        println!("{}", serde_json::json!({"folder": folder}));
        return Ok(());
    }
    println!("{} is made. Next: cd {name} && watchfire rule build && watchfire rule test", folder.display());
    Ok(())
}

fn build_rules(folder: PathBuf, output: Option<PathBuf>, json: bool) -> anyhow::Result<()> {
    let mut built = Vec::new();
    for file in project::build(&folder, output.as_deref())? {
        let bytes = std::fs::metadata(&file)?.len();
        if !json {
            println!("{} ({bytes} bytes)", file.display());
        }
        built.push(serde_json::json!({"file": file, "bytes": bytes}));
    }
    if json {
        println!("{}", serde_json::Value::from(built));
    }
    Ok(())
}
