//! What devices really said, out of the log of a server, played through a rule here.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use watchfire_log::{Clock as _, SystemClock};
use watchfire_model::{DeviceSpec, Duration, Timestamp};
use watchfire_scenario::{Case, Deployed, Recording, Rule};

use super::{Options, component, usage};
use crate::commands::{Client, ClientError, GlobalOptions, segment, with_values};

/// A device, and when what it said was received.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    device: String,
    from: Timestamp,
    to: Timestamp,
}

impl Part {
    /// `DEVICE,FROM..TO`, `DEVICE,FROM..` or `DEVICE,SPAN`.
    fn parse(text: &str, now: Timestamp) -> Result<Self> {
        let wrong = |what: &str| usage(format!("--from-log {text}: {what}"));
        let (device, range) = text.rsplit_once(',').ok_or_else(|| {
            wrong("DEVICE,RANGE, such as press-1,6h or press-1,2026-01-01T00:00:00Z..2026-01-02T00:00:00Z")
        })?;
        let time = |text: &str| text.parse::<Timestamp>().map_err(|error| wrong(&error.to_string()));
        let (from, to) = match range.split_once("..") {
            Some((from, "")) => (time(from)?, now),
            Some((from, to)) => (time(from)?, time(to)?),
            None => {
                let span = range.parse::<Duration>().map_err(|error| wrong(&error.to_string()))?;
                (now - span, now)
            }
        };
        if device.is_empty() {
            return Err(wrong("there is no device"));
        }
        if from >= to {
            return Err(wrong(&format!("{from} is not before {to}")));
        }
        Ok(Self { device: device.into(), from, to })
    }
}

/// Plays the readings and says what the rule says of them.
pub async fn run(options: Options, global: &GlobalOptions) -> Result<()> {
    let now = SystemClock.wall();
    let parts: Vec<Part> =
        options.from_log.iter().map(|text| Part::parse(text, now)).collect::<Result<_>>()?;
    let client = Client::new(global)?;
    let (mut lines, mut devices) = (String::new(), Vec::new());
    for part in &parts {
        lines.push_str(&readings(&client, part).await?);
        let device: Device =
            serde_json::from_value(client.get(&format!("/devices/{}", segment(&part.device)), &[]).await?)
                .context("the server described a device in an unknown way")?;
        let spec = device.spec();
        if !devices.contains(&spec) {
            devices.push(spec);
        }
    }
    let recording = Recording::from_ndjson(&lines, "the log of the server")?;
    let deployed = deployed(&options, &client).await?;
    let names: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let case = Case::of_recording(&names.join(", "), &recording, devices.clone(), deployed)?;
    let json = global.json;
    tokio::task::spawn_blocking(move || told(&options, &case, json)).await.context("the run ended early")?
}

fn told(options: &Options, case: &Case, json: bool) -> Result<()> {
    let rule = Rule::load(&component(options)?)?;
    let told = rule.tell(case);
    if let Some(file) = &options.save {
        let beside = file.with_extension("ndjson");
        let name = beside.file_name().context("--save names a file")?.to_string_lossy().into_owned();
        let module = format!("{} {}", rule.report.name, rule.report.version);
        write(&beside, &told.to_ndjson())?;
        write(file, &told.to_yaml(&module, &name))?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("{told}");
    }
    if !told.report.passed {
        bail!("the rule does not do what every rule must");
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

/// All lines of a part, however many answers they come in.
async fn readings(client: &Client, part: &Part) -> Result<String, ClientError> {
    let path = format!("/devices/{}/readings", segment(&part.device));
    let (mut from, mut all) = (part.from, String::new());
    loop {
        let query = [("from", from.to_string()), ("to", part.to.to_string())];
        let mut text = client.text(&path, &query).await?;
        let last = text.trim_end().rfind('\n').map_or(0, |end| end + 1);
        let next = serde_json::from_str::<Value>(&text[last..]).ok();
        let next = next.and_then(|line| line["next"].as_str()?.parse::<Timestamp>().ok());
        match next.filter(|next| *next > from) {
            Some(next) => {
                text.truncate(last);
                all.push_str(&text);
                from = next;
            }
            None => {
                all.push_str(&text);
                return Ok(all);
            }
        }
    }
}

/// What the rule is deployed with.
async fn deployed(options: &Options, client: &Client) -> Result<Deployed> {
    let mut deployed = Deployed::default();
    if let Some(like) = &options.like {
        let mut rule = client.get(&format!("/rules/{}", segment(like)), &[]).await?;
        let spec: watchfire_model::RuleSpec = serde_json::from_value(rule["spec"].take())
            .context("the server described a rule in an unknown way")?;
        deployed = Deployed {
            parameters: spec.parameters,
            condition: spec.condition,
            select: spec.select,
            limits: spec.limits,
            pass: spec.pass,
        };
    }
    if !options.set.is_empty() {
        deployed.parameters = with_values(deployed.parameters, "--set", &options.set)?;
    }
    Ok(deployed)
}

/// A device as the server describes it, as far as rules see it.
#[derive(serde::Deserialize)]
struct Device {
    id: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    site: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    interval: Option<Duration>,
}

impl Device {
    fn spec(self) -> DeviceSpec {
        let Self { id, kind, site, labels, interval } = self;
        DeviceSpec { id, kind, site, labels, interval, speaks_for: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_spans_or_times() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let part = |text: &str| Part::parse(text, now);
        let day: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let expected = Part { device: "press-1".into(), from: day, to: now };
        assert_eq!(part("press-1,1d").unwrap(), expected);
        assert_eq!(part("press-1,2026-01-01T00:00:00Z..2026-01-02T00:00:00Z").unwrap(), expected);
        assert_eq!(part("press-1,2026-01-01T00:00:00Z..").unwrap(), expected);
        assert_eq!(part("a,b,1d").unwrap().device, "a,b");
        for (bad, said) in [
            ("press-1", "DEVICE,RANGE"),
            (",1d", "no device"),
            ("press-1,soon", "soon"),
            ("press-1,2026-01-01..", "RFC 3339"),
            ("press-1,2026-01-01T00:00:00Z..2026-01-01T00:00:00Z", "is not before"),
        ] {
            assert!(part(bad).unwrap_err().to_string().contains(said), "{bad}");
        }
    }
}
