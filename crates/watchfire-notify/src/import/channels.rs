//! What each of Alertmanager's receivers becomes (`config/notifiers.go`, `notify/*/config.go`; 0.34).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::{Table, Value};

use super::document::{Fields, Node, Notes, duration};
use super::{ImportError, error};

/// A channel of one of our receivers.
#[derive(Debug)]
pub(super) struct Channel {
    /// `webhook`, `email`, ...
    pub(super) table: &'static str,
    pub(super) keys: Vec<(&'static str, Value)>,
    pub(super) max_alerts: Option<i64>,
}

type Read = fn(Fields<'_>, &Fields<'_>, &mut Notes) -> Result<Channel, ImportError>;

/// A kind of receiver of Alertmanager.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its key in the file.
    pub(super) key: &'static str,
    /// Keys of `global` that it knows.
    pub(super) globals: &'static [&'static str],
    pub(super) read: Read,
}

pub(super) const KINDS: [Kind; 9] = [
    Kind { key: "webhook_configs", globals: &["http_config"], read: webhook },
    Kind { key: "email_configs", globals: SMTP, read: email },
    Kind {
        key: "slack_configs",
        globals: &[
            "http_config",
            "slack_api_url",
            "slack_api_url_file",
            "slack_app_token",
            "slack_app_token_file",
        ],
        read: slack,
    },
    Kind { key: "pagerduty_configs", globals: &["http_config", "pagerduty_url"], read: pagerduty },
    Kind {
        key: "telegram_configs",
        globals: &["http_config", "telegram_api_url", "telegram_bot_token", "telegram_bot_token_file"],
        read: telegram,
    },
    Kind { key: "msteamsv2_configs", globals: &["http_config"], read: teams },
    Kind { key: "discord_configs", globals: &["http_config"], read: discord },
    Kind {
        key: "mattermost_configs",
        globals: &["http_config", "mattermost_webhook_url", "mattermost_webhook_url_file"],
        read: mattermost,
    },
    Kind {
        key: "rocketchat_configs",
        globals: &[
            "http_config",
            "rocketchat_api_url",
            "rocketchat_token",
            "rocketchat_token_file",
            "rocketchat_token_id",
            "rocketchat_token_id_file",
        ],
        read: rocketchat,
    },
];

const SMTP: &[&str] = &[
    "smtp_from",
    "smtp_hello",
    "smtp_smarthost",
    "smtp_auth_username",
    "smtp_auth_password",
    "smtp_auth_password_file",
    "smtp_require_tls",
    "smtp_force_implicit_tls",
];

/// What is left of a receiver, and what nearly all of them have.
fn finish(mut fields: Fields<'_>, tells_resolved: bool, notes: &mut Notes) -> Result<(), ImportError> {
    if !fields.flag("send_resolved")?.unwrap_or(tells_resolved) {
        notes.add(
            fields.within("send_resolved"),
            "that an alert is over is always told to whom its begin was",
        );
    }
    fields.rest(notes, |key| match key {
        "http_config" => "has no part in this channel".into(),
        "timeout" => "has a bound of its own".into(),
        _ => "messages have a text of their own: where another one is wanted, give the receiver a template"
            .into(),
    });
    Ok(())
}

/// A secret as ours are written: the text, or the file that it stands in.
fn secret(fields: &mut Fields<'_>, key: &str) -> Result<Option<Value>, ImportError> {
    let text = fields.text(key)?.filter(|text| !text.is_empty());
    if text.as_deref() == Some("<secret>") {
        let fault = "the secret itself is not in the file, which is an answer of Alertmanager: take the file that it reads";
        return Err(error(fields.within(key), fault));
    }
    let file = fields.text(&format!("{key}_file"))?.filter(|file| !file.is_empty());
    Ok(file.map(in_file).or(text.map(Value::String)))
}

fn in_file(file: String) -> Value {
    Value::Table(Table::from_iter([("file".to_string(), Value::String(file))]))
}

/// That of the receiver, or else that of `global`, which others may have too.
fn secret_or(
    fields: &mut Fields<'_>,
    key: &str,
    global: &Fields<'_>,
    global_key: &str,
) -> Result<Option<Value>, ImportError> {
    match secret(fields, key)? {
        Some(own) => Ok(Some(own)),
        None => secret(&mut global.clone(), global_key),
    }
}

fn needed(value: Option<Value>, fields: &Fields<'_>, key: &str) -> Result<Value, ImportError> {
    value.ok_or_else(|| error(fields.within(key), "is missing, here and in `global`"))
}

fn text_or(
    fields: &mut Fields<'_>,
    key: &str,
    global: &Fields<'_>,
    global_key: &str,
) -> Result<Option<String>, ImportError> {
    match fields.text(key)? {
        Some(own) => Ok(Some(own)),
        None => global.look(global_key).map(|node| node.text()).transpose(),
    }
}

/// Headers that stand for what `http_config` says, of the receiver or else of `global`.
fn http(fields: &mut Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Table, ImportError> {
    let mut headers = Table::new();
    let Some(node) = fields.take("http_config").or_else(|| global.look("http_config")) else {
        return Ok(headers);
    };
    let mut config = node.fields()?;
    // Where each stands, and what it makes of a secret.
    if let Some(basic) = config.take("basic_auth") {
        let mut basic = basic.fields()?;
        let (user, password) = (basic.text("username")?, basic.text("password")?);
        match (user, password) {
            (Some(user), Some(password)) => {
                let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                headers.insert("Authorization".into(), value.into());
            }
            _ => notes.add(&basic.place, ASSEMBLE),
        }
        basic.rest(notes, |_| ASSEMBLE.into());
    }
    if let Some(authorization) = config.take("authorization") {
        let mut authorization = authorization.fields()?;
        let kind = authorization.text("type")?.unwrap_or_else(|| "Bearer".into());
        match authorization.text("credentials")? {
            Some(credentials) => {
                headers.insert("Authorization".into(), format!("{kind} {credentials}").into());
            }
            None => notes.add(&authorization.place, ASSEMBLE),
        }
        authorization.rest(notes, |_| ASSEMBLE.into());
    }
    if let Some(token) = config.text("bearer_token")? {
        headers.insert("Authorization".into(), format!("Bearer {token}").into());
    }
    if let Some(given) = config.take("http_headers") {
        for (name, header) in given.fields()?.all() {
            let mut header = header.fields()?;
            let mut found: Vec<Value> = Vec::new();
            for key in ["values", "secrets"] {
                found.extend(header.texts(key)?.into_iter().map(Value::String));
            }
            found.extend(header.texts("files")?.into_iter().map(in_file));
            if found.len() > 1 {
                notes.add(&header.place, "a header has one value: the first is carried");
            }
            headers.extend(found.into_iter().next().map(|value| (name.to_string(), value)));
            header.rest(notes, |_| "is not known".into());
        }
    }
    config.rest(notes, |key| match key {
        "bearer_token_file" => ASSEMBLE.into(),
        "follow_redirects" => "redirects are never followed".into(),
        "enable_http2" => "HTTP/2 is spoken where the other side does".into(),
        "tls_config" => "certificates are checked against those that the machine trusts".into(),
        _ => "requests are made without".into(),
    });
    Ok(headers)
}

const ASSEMBLE: &str = "a header that is assembled of a file is not known: write the whole value, such as `Bearer TOKEN`, \
                        into a file and name it with headers = { Authorization = { file = \"PATH\" } }";

/// A bound of a request; `0`, none in Alertmanager, is our default.
fn timeout(fields: &mut Fields<'_>) -> Result<Option<(&'static str, Value)>, ImportError> {
    let Some(node) = fields.take("timeout") else { return Ok(None) };
    let span = duration(&node)?;
    Ok((span.0 > 0).then(|| ("timeout", span.to_string().into())))
}

fn webhook(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let url = secret(&mut fields, "url")?.ok_or_else(|| error(fields.within("url"), "is missing"))?;
    if url.as_str().is_some_and(|url| url.contains("{{")) {
        notes.add(
            fields.within("url"),
            "is a template, which addresses are not: write one receiver for each address",
        );
    }
    let mut keys = vec![("url", url)];
    let headers = http(&mut fields, global, notes)?;
    if !headers.is_empty() {
        keys.push(("headers", headers.into()));
    }
    keys.extend(timeout(&mut fields)?);
    let most = fields.take("max_alerts").map(|node| number(&node)).transpose()?;
    finish(fields, true, notes)?;
    Ok(Channel { table: "webhook", keys, max_alerts: most.filter(|most| *most > 0) })
}

fn number(node: &Node<'_>) -> Result<i64, ImportError> {
    node.text()?.parse().map_err(|_| error(&node.place, "is no whole number"))
}

fn email(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let smarthost = text_or(&mut fields, "smarthost", global, "smtp_smarthost")?
        .ok_or_else(|| error(fields.within("smarthost"), "is missing, here and in `global`"))?;
    let (host, port) = smarthost
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| error(fields.within("smarthost"), "is no host:port"))?;
    let from = text_or(&mut fields, "from", global, "smtp_from")?;
    let from = needed(from.map(Value::String), &fields, "from")?;
    let to = fields.text("to")?.ok_or_else(|| error(fields.within("to"), "is missing"))?;
    let to: Vec<&str> = to.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
    let mut flag = |key: &str, global_key: &str| match fields.flag(key)? {
        Some(own) => Ok(Some(own)),
        None => global.clone().flag(global_key),
    };
    let required = flag("require_tls", "smtp_require_tls")?.unwrap_or(true);
    // As Alertmanager decides it (`notify/email`): port 465 speaks TLS from the start, where nothing else is said.
    let implicit = flag("force_implicit_tls", "smtp_force_implicit_tls")?.unwrap_or(port == 465);
    let tls = match (implicit, required) {
        (true, _) => "implicit",
        (false, true) => "starttls",
        (false, false) => {
            notes.add(
                fields.within("require_tls"),
                "TLS is either demanded or not used: it is not, as `tls` says",
            );
            "none"
        }
    };
    let mut keys = vec![
        ("host", host.trim_matches(['[', ']']).into()),
        ("port", i64::from(port).into()),
        ("tls", tls.into()),
        ("from", from),
        ("to", to.into()),
    ];
    if let Some(hello) = text_or(&mut fields, "hello", global, "smtp_hello")? {
        keys.push(("hello", hello.into()));
    }
    if let Some(user) = text_or(&mut fields, "auth_username", global, "smtp_auth_username")? {
        keys.push(("username", user.into()));
    }
    if let Some(password) = secret_or(&mut fields, "auth_password", global, "smtp_auth_password")? {
        keys.push(("password", password));
    }
    finish(fields, false, notes)?;
    Ok(Channel { table: "email", keys, max_alerts: None })
}

fn slack(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let mut keys = Vec::new();
    // In this order, as Alertmanager: what the receiver says itself, and then `global`.
    let (own_token, own_url) = (secret(&mut fields, "app_token")?, secret(&mut fields, "api_url")?);
    let shared = |key: &str| secret(&mut global.clone(), key);
    let found = match (own_token, own_url) {
        (Some(token), _) => Some(("token", token)),
        (None, Some(url)) => Some(("url", url)),
        (None, None) => match shared("slack_app_token")? {
            Some(token) => Some(("token", token)),
            None => shared("slack_api_url")?.map(|url| ("url", url)),
        },
    };
    keys.push(found.ok_or_else(|| error(fields.within("api_url"), "is missing, here and in `global`"))?);
    if let Some(channel) = fields.text("channel")? {
        keys.push(("channel", channel.into()));
    }
    finish(fields, false, notes)?;
    Ok(Channel { table: "slack", keys, max_alerts: None })
}

fn pagerduty(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let routing_key = match (secret(&mut fields, "routing_key")?, secret(&mut fields, "service_key")?) {
        (Some(key), _) => Some(key),
        (None, Some(key)) => {
            notes.add(
                fields.within("service_key"),
                "is of the Events API v1: it is written as routing_key, put that of an integration of Events API v2 there",
            );
            Some(key)
        }
        (None, None) => None,
    };
    let mut keys = vec![("routing_key", needed(routing_key, &fields, "routing_key")?)];
    if let Some(url) = text_or(&mut fields, "url", global, "pagerduty_url")? {
        keys.push(("url", url.into()));
    }
    finish(fields, true, notes)?;
    Ok(Channel { table: "pagerduty", keys, max_alerts: None })
}

fn telegram(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let token = secret_or(&mut fields, "bot_token", global, "telegram_bot_token")?;
    let mut keys = vec![("token", needed(token, &fields, "bot_token")?)];
    let chat = fields.text("chat_id")?;
    match (chat, fields.text("chat_id_file")?) {
        (Some(chat), _) => keys.push(("chat_id", chat.into())),
        (None, Some(_)) => {
            notes.add(fields.within("chat_id_file"), "a chat is no secret: write it as `chat_id`");
        }
        (None, None) => return Err(error(fields.within("chat_id"), "is missing")),
    }
    if let Some(thread) = fields.take("message_thread_id") {
        keys.push(("message_thread_id", number(&thread)?.into()));
    }
    if let Some(url) = text_or(&mut fields, "api_url", global, "telegram_api_url")? {
        keys.push(("url", url.into()));
    }
    finish(fields, true, notes)?;
    Ok(Channel { table: "telegram", keys, max_alerts: None })
}

fn teams(mut fields: Fields<'_>, _: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let url = secret(&mut fields, "webhook_url")?;
    let url = url.ok_or_else(|| error(fields.within("webhook_url"), "is missing"))?;
    finish(fields, true, notes)?;
    Ok(Channel { table: "teams", keys: vec![("url", url)], max_alerts: None })
}

/// The text of a message as a template of the body: a line for each alert.
const TEXT: &str = "{% set text %}{% for alert in alerts %}{{ alert.status }}: {{ alert.annotations.summary }}\n\
                    {% endfor %}{% endset %}";

/// A webhook whose body is JSON with these members beside the text.
fn chat(
    url: Value,
    headers: Table,
    text_key: &str,
    members: &[(&str, String)],
) -> Vec<(&'static str, Value)> {
    let mut body = format!("{TEXT}{{");
    for (key, value) in members {
        // What is given stands in the template as it is: braces of its own would be read as ours.
        let value = Value::String(value.clone());
        let value = serde_json::to_string(&value).unwrap_or_default().replace('{', "\\u007b");
        body.push_str(&format!("\"{key}\": {value}, "));
    }
    body.push_str(&format!("\"{text_key}\": {{{{ text | tojson }}}}}}"));
    let mut keys = vec![("url", url), ("content_type", "application/json".into())];
    if !headers.is_empty() {
        keys.push(("headers", headers.into()));
    }
    keys.push(("body", body.into()));
    keys
}

fn discord(mut fields: Fields<'_>, global: &Fields<'_>, notes: &mut Notes) -> Result<Channel, ImportError> {
    let url = secret(&mut fields, "webhook_url")?;
    let url = url.ok_or_else(|| error(fields.within("webhook_url"), "is missing"))?;
    let headers = http(&mut fields, global, notes)?;
    finish(fields, true, notes)?;
    Ok(Channel { table: "webhook", keys: chat(url, headers, "content", &[]), max_alerts: None })
}

/// A text that is no template of Go, as a member of a body.
fn member(fields: &mut Fields<'_>, key: &'static str) -> Result<Option<(&'static str, String)>, ImportError> {
    let plain = fields.look(key).map(|node| node.text()).transpose()?.filter(|text| !text.contains("{{"));
    Ok(plain.and_then(|text| fields.take(key).map(|_| (key, text))))
}

fn mattermost(
    mut fields: Fields<'_>,
    global: &Fields<'_>,
    notes: &mut Notes,
) -> Result<Channel, ImportError> {
    let url = secret_or(&mut fields, "webhook_url", global, "mattermost_webhook_url")?;
    let url = needed(url, &fields, "webhook_url")?;
    let headers = http(&mut fields, global, notes)?;
    let members: Vec<_> =
        [member(&mut fields, "channel")?, member(&mut fields, "username")?].into_iter().flatten().collect();
    finish(fields, true, notes)?;
    Ok(Channel { table: "webhook", keys: chat(url, headers, "text", &members), max_alerts: None })
}

fn rocketchat(
    mut fields: Fields<'_>,
    global: &Fields<'_>,
    notes: &mut Notes,
) -> Result<Channel, ImportError> {
    let base = text_or(&mut fields, "api_url", global, "rocketchat_api_url")?
        .unwrap_or_else(|| "https://open.rocket.chat/".into());
    let url = format!("{}/api/v1/chat.postMessage", base.trim_end_matches('/'));
    let mut headers = http(&mut fields, global, notes)?;
    for (header, key, global_key) in
        [("X-Auth-Token", "token", "rocketchat_token"), ("X-User-Id", "token_id", "rocketchat_token_id")]
    {
        let value = secret_or(&mut fields, key, global, global_key)?;
        headers.insert(header.into(), needed(value, &fields, key)?);
    }
    let members: Vec<_> = member(&mut fields, "channel")?.into_iter().collect();
    finish(fields, false, notes)?;
    Ok(Channel { table: "webhook", keys: chat(url.into(), headers, "text", &members), max_alerts: None })
}
