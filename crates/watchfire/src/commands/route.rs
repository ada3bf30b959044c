//! `watchfire route test|show|import`: who would be told of an alert, by the configuration, without a server.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use watchfire_model::Timestamp;
use watchfire_notify::import;
use watchfire_notify::matcher::Matchers;
use watchfire_notify::stages::inhibit::InhibitConfig;
use watchfire_notify::stages::interval::Intervals;
use watchfire_notify::stages::route::{Explained, Router, Step};
use watchfire_store::LabelSet;

use super::{Output, pair};
use crate::config::Config;

/// Commands about routes.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Say who would be told of an alert with these labels, and how it is decided
    Test {
        /// Labels of the alert
        #[arg(long, value_name = "NAME=VALUE", value_parser = pair, num_args = 1.., required = true)]
        labels: Vec<(String, String)>,
        /// At this time, which counts for time intervals; now, where it is not given
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Show the tree of routes, with what each has from those above it
    Show {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Turn a configuration of Alertmanager into one of ours
    Import {
        /// The file, such as alertmanager.yml
        file: PathBuf,
        /// The file to write, which must not exist yet; to the terminal where it is not given
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// Which configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration; without one the defaults hold
    #[arg(long, env = "WATCHFIRE_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref())?)
    }
}

/// Runs one. `json`: for programs.
pub fn run_route(command: RouteCommand, json: bool) -> Result<()> {
    match command {
        RouteCommand::Test { labels, at, config } => {
            let at = at.unwrap_or_else(|| jiff::Timestamp::now().into());
            test(&config.load()?, labels, at, Output::new(json))
        }
        RouteCommand::Show { config } => show(&config.load()?, Output::new(json)),
        RouteCommand::Import { file, out } => import(&file, out.as_deref(), json),
    }
}

fn test(config: &Config, labels: Vec<(String, String)>, at: Timestamp, output: Output) -> Result<()> {
    let config = config.notify();
    // As with alerts: a label that is empty is none.
    let labels: LabelSet = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let explained = Router::new(&config)?.explain(&labels);
    let intervals = Intervals::new(&config.time_intervals).map_err(anyhow::Error::msg)?;
    let rows: Vec<Value> = explained.iter().flat_map(|route| targets(route, &intervals, at)).collect();
    let (inhibits, inhibited) = sides(&config.inhibit, &labels);
    if output.is_json() {
        output.document(&json!({
            "labels": labels, "at": at, "routes": explained, "targets": rows,
            "may_inhibit": inhibits, "may_be_inhibited": inhibited,
        }));
        return Ok(());
    }
    for route in &explained {
        for step in &route.path {
            let goes_on = if step.r#continue { "  (continue)" } else { "" };
            output.line(&format!("{}{} {}{goes_on}", "  ".repeat(step.depth), step.place, step.matchers));
        }
        if route.targets.is_empty() {
            output.line(&format!("{}nobody is told", "  ".repeat(route.path.len())));
        }
    }
    output.list(&rows, &["receiver", "group_key", "wait", "interval", "repeat", "time_intervals", "now"]);
    for (rules, what) in [(&inhibits, "may inhibit others by"), (&inhibited, "may be inhibited by others by")]
    {
        if !rules.is_empty() {
            output.line(&format!("it {what} {}", rules.join(", ")));
        }
    }
    Ok(())
}

/// A line for each receiver of a route.
fn targets(route: &Explained, intervals: &Intervals, at: Timestamp) -> Vec<Value> {
    let one = |target: &watchfire_notify::stages::route::Target| {
        let muted = target.times.muted(intervals, at);
        json!({
            "receiver": target.receiver,
            "route": route.path.last().map(|step| &step.place),
            "group_key": target.group_key,
            "group_labels": target.group_labels,
            "wait": target.timers.wait,
            "interval": target.timers.interval,
            "repeat": target.timers.repeat,
            "time_intervals": times(&target.times.mute, &target.times.active),
            "now": muted.map_or_else(|| "is told".to_string(), |why| format!("is held: {why}")),
        })
    };
    route.targets.iter().map(one).collect()
}

fn times(mute: &[String], active: &[String]) -> Value {
    let part =
        |what: &str, names: &[String]| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
    let parts: Vec<String> =
        [part("not within", mute), part("only within", active)].into_iter().flatten().collect();
    if parts.is_empty() { Value::Null } else { parts.join("; ").into() }
}

/// The rules whose source side matches, and those whose target side does, by name or number.
fn sides(rules: &[InhibitConfig], labels: &LabelSet) -> (Vec<String>, Vec<String>) {
    let matched = |side: fn(&InhibitConfig) -> &Vec<String>| {
        let matches = |rule: &InhibitConfig| Matchers::all(side(rule)).is_ok_and(|all| all.matches(labels));
        let named = |(i, rule): (usize, &InhibitConfig)| match &rule.name {
            Some(name) => format!("{name:?}"),
            None => format!("inhibit[{i}]"),
        };
        rules.iter().enumerate().filter(|(_, rule)| matches(rule)).map(named).collect()
    };
    (matched(|rule| &rule.source_matchers), matched(|rule| &rule.target_matchers))
}

fn show(config: &Config, output: Output) -> Result<()> {
    let steps = Router::new(&config.notify())?.outline();
    if output.is_json() {
        output.line(&serde_json::to_string(&steps)?);
        return Ok(());
    }
    let row = |step: &Step| {
        let receivers = if step.receivers.is_empty() { "nobody".into() } else { step.receivers.join(", ") };
        json!({
            "route": format!("{}{}", "  ".repeat(step.depth), step.matchers),
            "receiver": receivers,
            "group_by": step.group_by,
            "wait": step.timers.wait,
            "interval": step.timers.interval,
            "repeat": step.timers.repeat,
            "time_intervals": times(&step.times.mute, &step.times.active),
            "continue": step.r#continue,
        })
    };
    let rows: Vec<Value> = steps.iter().map(row).collect();
    let columns =
        ["route", "receiver", "group_by", "wait", "interval", "repeat", "time_intervals", "continue"];
    output.list(&rows, &columns);
    Ok(())
}

/// Writes what the file became, says on the terminal what of it did not become anything, and then whether a server could
/// use it here.
fn import(file: &Path, out: Option<&Path>, json: bool) -> Result<()> {
    let yaml = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let imported = import::alertmanager(&yaml).with_context(|| file.display().to_string())?;
    match out {
        Some(out) => {
            // It may hold secrets, as the file that it was made of.
            let made = File::options().write(true).create_new(true).mode(0o600).open(out);
            made.and_then(|mut made| made.write_all(imported.toml.as_bytes()))
                .with_context(|| format!("{} cannot be written", out.display()))?;
        }
        None if json => (),
        None => print!("{}", imported.toml),
    }
    if json {
        let mut document = json!({ "not_carried": imported.notes });
        if out.is_none() {
            document["toml"] = imported.toml.as_str().into();
        }
        println!("{document}");
    } else {
        for note in &imported.notes {
            eprintln!("not carried: {note}");
        }
    }
    let name = out.map_or("the configuration".to_string(), |out| out.display().to_string());
    // Without variables of the environment: what is written must do by itself.
    if let Err(fault) = Config::read(&imported.toml, &name, []) {
        bail!("what was written cannot be used here as it is: {}", watchfire_model::chain(&fault));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_rules_are_named() {
        let rule = |name: Option<&str>, source: &str, target: &str| InhibitConfig {
            name: name.map(Into::into),
            source_matchers: vec![source.into()],
            target_matchers: vec![target.into()],
            equal: vec![],
        };
        let rules = [rule(Some("down"), "a=1", "b=1"), rule(None, "a=2", "a=1"), rule(None, "a=1", "a=2")];
        let labels = [("a".to_string(), "1".to_string())].into();
        assert_eq!(
            sides(&rules, &labels),
            (vec!["\"down\"".into(), "inhibit[2]".into()], vec!["inhibit[1]".into()])
        );
    }

    #[test]
    fn time_intervals_are_a_sentence() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(times(&[], &[]), Value::Null);
        assert_eq!(times(&names(&["a", "b"]), &names(&["c"])), "not within a, b; only within c");
    }
}
