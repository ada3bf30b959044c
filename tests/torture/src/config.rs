//! The configuration of the engine under test.

use std::net::SocketAddr;
use std::path::Path;

use crate::engine::Addresses;

/// A configuration that delivers every alert to `hook`. Waits are short, so that a receiver that misbehaves
/// half of the time is tried often enough; and nothing else differs from what is shipped. `sinks` are further sections.
pub fn text(data: &Path, rules: &Path, addresses: &Addresses, hook: SocketAddr, sinks: &str) -> String {
    format!(
        r#"
data = {data:?}
rules = {rules:?}

[http]
listen = "{http}"

[mqtt]
listen = "{mqtt}"

[telemetry]
format = "json"

[[receiver]]
name = "hook"
retry_initial = "20ms"
retry_max = "250ms"
webhook = {{ url = "http://{hook}/hook", timeout = "1s" }}

[route]
receiver = "hook"

{sinks}"#,
        http = addresses.http,
        mqtt = addresses.mqtt,
    )
}
