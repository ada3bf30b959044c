//! The project's automation. It does all set-up by itself on a machine with git, a C compiler, make and cargo,
//! and continuous integration runs the same commands as a laptop.

mod bindings;
mod build;
mod checks;
mod contract;
mod documents;
mod fuzz;
mod languages;
mod licences;
mod run;
mod setup;
mod tests;
mod tutorials;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use run::Workspace;

const USAGE: &str = "\
cargo xtask COMMAND

  demo [--devices N] [--seconds S] [--replay FILE --speed N]
                 the whole engine with a simulated fleet over MQTT; recordings are
                 examples/wind-farm/readings.ndjson and examples/bottling-plant/readings.ndjson
  example NAME [--devices N] [--seconds S]
                 one of examples/ against servers that it starts: timescale-and-kafka
  test [FILTER]  builds the WebAssembly components and runs all tests
  ci             all checks, as a clean clone sees them
  fmt [--check]  formats every workspace
  lint           clippy in every workspace, warnings denied
  bench [NAME...] [--json] [--alerts=N] [--active=N]
                 measures, each figure beside a reference of the same run; the numbers
                 are those of the bench of alerts
  torture [--seconds S] [--seed N] [--sinks]
                 kills the real binary again and again, and proves that nothing is lost
  fuzz [TARGET] [--seconds S]
                 bytes guided by coverage against one decoder; without a target, says which there are
  wit-sync [--check]
                 copies the contract from wit/ to where SDKs carry it, and says which bindings are older
  contract-docs [--check]
                 writes docs/contract.md from the comments of wit/
  tutorials [LANGUAGE...]
                 follows docs/tutorials to the letter, against a running engine
  check-docs     that it is what they say, quotations of code, links
  check-deps     licences, crates against ARCHITECTURE.md, paths of machines
  rules          builds the shipped rules alone, and says where they are
  services       brings the servers that tests talk to: PostgreSQL, TimescaleDB, Kafka, Mosquitto
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let began = Instant::now();
    match dispatch(command, rest) {
        Ok(Some(said)) => {
            println!("\nxtask {command}: {said} ({} s)", began.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask {command}: FAILED after {} s: {error:#}", began.elapsed().as_secs());
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &str, rest: &[String]) -> Result<Option<String>> {
    let workspace = Workspace::find()?;
    Ok(match command {
        "demo" => {
            build::demo(&workspace, rest)?;
            None
        }
        "example" => {
            build::example(&workspace, rest)?;
            None
        }
        "test" => Some(tests::run(&workspace, rest)?),
        "ci" => Some(ci(&workspace)?),
        "fmt" => {
            checks::format(&workspace, flag(rest, "--check")?)?;
            Some("formatted".into())
        }
        "lint" => {
            documents::check(&workspace)?;
            build::components(&workspace)?;
            checks::lint(&workspace)?;
            Some("no warnings".into())
        }
        "bench" => {
            build::bench(&workspace, rest)?;
            None
        }
        "torture" => {
            build::torture(&workspace, rest)?;
            None
        }
        "fuzz" => Some(fuzz::run(&workspace, rest)?),
        "wit-sync" => Some(checks::wit_sync(&workspace, flag(rest, "--check")?)?),
        "contract-docs" => Some(contract::write(&workspace, flag(rest, "--check")?)?),
        "tutorials" => Some(tutorials::follow(&workspace, rest)?),
        "check-docs" => Some(documents::check(&workspace)?),
        "check-deps" => Some(checks::dependencies(&workspace)?),
        "rules" => Some(format!("the shipped rules are in {}", build::components(&workspace)?.display())),
        "services" => {
            let missing = setup::services(&workspace);
            let count = missing.len();
            if count > 0 {
                bail!("{count} of them could not be had");
            }
            Some("every server that tests talk to is there".into())
        }
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            None
        }
        other => bail!("there is no command {other:?}\n\n{USAGE}"),
    })
}

/// All checks, the cheap ones first. One profile serves tests, demonstration and torture: everything is compiled once.
fn ci(workspace: &Workspace) -> Result<String> {
    let mut step = Step { workspace, took: Vec::new() };
    step.run("set-up", || setup::prepare(workspace))?;
    step.run("formatting", || checks::format(workspace, true))?;
    step.run("copies of the contract", || checks::wit_sync(workspace, true))?;
    step.run("documents", || documents::check(workspace))?;
    step.run("dependencies", || checks::dependencies(workspace))?;
    step.run("lint", || build::components(workspace).and_then(|_| checks::lint(workspace)))?;
    let tested = step.run("test", || tests::run(workspace, &[]))?;
    let words = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    step.run("demo", || build::demo(workspace, &words("--devices 500 --seconds 20")))?;
    // The rules that are shipped in other languages than Rust.
    let plant = "--replay examples/bottling-plant/readings.ndjson --speed 5000";
    step.run("demo of a recording", || build::demo(workspace, &words(plant)))?;
    step.run("example", || build::example(workspace, &words("timescale-and-kafka --seconds 10")))?;
    step.run("torture", || build::torture(workspace, &words("--seconds 25 --seed 1")))?;
    step.run("torture of sinks", || build::torture(workspace, &words("--seconds 15 --seed 2 --sinks")))?;
    println!("{}", step.took.join("\n"));
    Ok(tested)
}

/// Steps, each with how long it took and what room it left.
struct Step<'a> {
    workspace: &'a Workspace,
    took: Vec<String>,
}

impl Step<'_> {
    fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let began = Instant::now();
        let done = work();
        let took = began.elapsed().as_secs();
        // A linker that finds no room says "Bus error".
        let room = self.workspace.room().map(|free| format!("{free} GiB free")).unwrap_or_default();
        println!("-- {name}: {took} s, {room}");
        self.took.push(format!("{name:<24} {took:>5} s  {room}"));
        done.with_context(|| format!("{name} ({room})"))
    }
}

/// Whether the only argument that a command takes was given.
fn flag(rest: &[String], name: &str) -> Result<bool> {
    match rest {
        [] => Ok(false),
        [one] if one == name => Ok(true),
        _ => bail!("takes {name} or nothing"),
    }
}
