//! What the registry knows of the simulated machines: their type and site, and that each site is a device too.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::simulate::Fleet;

/// Registers them once all have said something: whoever is registered before counts as silent until then.
pub async fn register(http: SocketAddr, fleet: Fleet) -> Result<()> {
    tokio::time::sleep(fleet.complete_after()).await;
    let (mut lines, mut sites) = (String::new(), BTreeSet::new());
    for number in 0..fleet.devices {
        let site = Fleet::site(number);
        let machine = json!({ "id": Fleet::device(number), "type": "machine", "site": site });
        writeln!(lines, "{machine}").context("a text takes every line")?;
        sites.insert(site);
    }
    for site in &sites {
        let site = json!({ "id": site, "type": "site" });
        writeln!(lines, "{site}").context("a text takes every line")?;
    }
    let import = reqwest::Client::new().post(format!("http://{http}/api/v1/devices:import")).body(lines);
    let answer = import.send().await.context("the registration of machines")?;
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("the registration of machines was refused: {status}: {text}");
    }
    println!("registry   {} machines in {} halls", fleet.devices, sites.len());
    Ok(())
}
