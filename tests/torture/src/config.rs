//! The configuration of the engine under test.

use std::net::SocketAddr;
use std::path::Path;

use crate::engine::Addresses;

/// A configuration that delivers every alert to `hook`, quickly tried again.
pub fn text(data: &Path, addresses: &Addresses, hook: SocketAddr) -> String {
    format!(
        r#"
data = {data:?}

[http]
listen = "{http}"

[mqtt]
listen = "{mqtt}"

[[receiver]]
name = "hook"
[receiver.webhook]
url = "http://{hook}/hook"
timeout = "2s"

[route]
receiver = "hook"
"#,
        http = addresses.http,
        mqtt = addresses.mqtt,
    )
}
