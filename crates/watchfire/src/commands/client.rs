//! A small client of the API.

use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::GlobalOptions;

/// Items of a list that one request asks for.
const PAGE: &str = "1000";

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused.
    #[error("{}", refusal(.0))]
    Refused(Value),
    /// The server could not be reached, or broke off.
    #[error("{server} could not be asked")]
    Transport {
        /// The server.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A file here.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What was given makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It was done here and came to nothing.
    #[error("{0}")]
    Failed(String),
}

impl ClientError {
    /// What the process ends with: 2 where it was used wrongly, 1 where it was refused or failed.
    pub fn code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

fn refusal(document: &Value) -> String {
    let mut text = document["detail"].as_str().unwrap_or("the server refused").to_string();
    for name in ["pointer", "needed"] {
        if let Some(value) = document[name].as_str() {
            // Writing to a String does not fail.
            let _ = write!(text, " ({name}: {value})");
        }
    }
    for fault in document["errors"].as_array().into_iter().flatten() {
        let (pointer, detail) = (&fault["pointer"], &fault["detail"]);
        let fault = format!("{} {}", pointer.as_str().unwrap_or(""), detail.as_str().unwrap_or(""));
        // The first may be told already.
        if !text.contains(&fault) {
            let _ = write!(text, "\n  {fault}");
        }
    }
    if let Some(request) = document["request"].as_str() {
        let _ = write!(text, " [request {request}]");
    }
    text
}

/// An error and its sources, in one line.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// Reads a file of the user's.
pub(super) fn read_file(path: &std::path::Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::File {
        action: "read",
        path: path.display().to_string(),
        source,
    })
}

/// A text as one part of a path.
pub(crate) fn segment(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':' | b'@') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(global: &GlobalOptions) -> Result<Self, ClientError> {
        let server = global.server.trim_end_matches('/').to_string();
        if !server.starts_with("http://") && !server.starts_with("https://") {
            return Err(ClientError::Usage(format!(
                "--server {server}: an address begins with http:// or https://"
            )));
        }
        // The first call installs it; later ones find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|source| ClientError::Transport { server: server.clone(), source })?;
        Ok(Self { http, server, token: global.token.clone() })
    }

    fn transport(&self) -> impl Fn(reqwest::Error) -> ClientError + '_ {
        |source| ClientError::Transport { server: self.server.clone(), source: source.without_url() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(self.transport())?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        let document = serde_json::from_str(&text)
            .unwrap_or_else(|_| serde_json::json!({"detail": format!("the server answered {status}")}));
        Err(ClientError::Refused(document))
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let bytes = response.bytes().await.map_err(self.transport())?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, &with_query(path, query)).timeout(Duration::from_secs(60))).await
    }

    /// As [`Client::get`], for what is no single document; it may be long.
    pub(crate) async fn text(&self, path: &str, query: &[(&str, String)]) -> Result<String, ClientError> {
        let request = self.request(Method::GET, &with_query(path, query));
        let response = self.send(request.timeout(Duration::from_secs(600))).await?;
        response.text().await.map_err(self.transport())
    }

    /// As [`Client::get`]; `None`: there is no such thing.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>, ClientError> {
        match self.get(path, &[]).await {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::Refused(document)) if document["status"] == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        // Above what the server takes for its longest wait.
        let request = self.request(method, path).timeout(Duration::from_secs(150));
        self.json(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    pub(super) async fn upload(&self, path: &str, kind: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        let request = self.request(Method::POST, path).header("content-type", kind).body(body);
        self.json(request.timeout(Duration::from_secs(600))).await
    }

    /// All items of a list, or the first `most`.
    pub(super) async fn list(
        &self,
        path: &str,
        mut query: Vec<(&str, String)>,
        most: usize,
    ) -> Result<Vec<Value>, ClientError> {
        query.push(("limit", PAGE.to_string()));
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut asked = query.clone();
            asked.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &asked).await?;
            if let Value::Array(found) = page["items"].take() {
                items.extend(found);
            }
            match page["next"].take() {
                Value::String(next) if items.len() < most => cursor = Some(next),
                _ => break,
            }
        }
        items.truncate(most);
        Ok(items)
    }

    /// Follows server-sent events until the server ends them or the caller has enough.
    pub(super) async fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str, &str),
    ) -> Result<(), ClientError> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let mut stream = response.bytes_stream();
        let mut buffer = Vec::new();
        while let Some(bytes) = stream.next().await {
            buffer.extend_from_slice(&bytes.map_err(self.transport())?);
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = buffer.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&block);
                let field = |name: &str| {
                    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
                    lines.map(|rest| rest.strip_prefix(' ').unwrap_or(rest)).collect::<Vec<_>>().join("\n")
                };
                let data = field("data:");
                if !data.is_empty() {
                    each(&field("event:"), &data);
                }
            }
        }
        Ok(())
    }

    /// Writes the body of an answer to a file, piece by piece; gives its size.
    pub(super) async fn download(&self, path: &str, file: &std::path::Path) -> Result<u64, ClientError> {
        use tokio::io::AsyncWriteExt as _;
        let failed =
            |action| move |source| ClientError::File { action, path: file.display().to_string(), source };
        let response = self.send(self.request(Method::POST, path)).await?;
        let mut out = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(file)
            .await
            .map_err(failed("create"))?;
        let (mut stream, mut size) = (response.bytes_stream(), 0);
        let copied = async {
            while let Some(bytes) = stream.next().await {
                let bytes = bytes.map_err(self.transport())?;
                size += bytes.len() as u64;
                out.write_all(&bytes).await.map_err(failed("write"))?;
            }
            out.sync_all().await.map_err(failed("sync"))
        };
        if let Err(error) = copied.await {
            // Half a backup must not be taken for a whole one.
            let _ = tokio::fs::remove_file(file).await;
            return Err(error);
        }
        Ok(size)
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let parts: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", segment(value))).collect();
    if parts.is_empty() { path.to_string() } else { format!("{path}?{}", parts.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_parts_of_an_address() {
        assert_eq!(segment("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(with_query("/x", &[("a", "1&2".into())]), "/x?a=1%262");
    }

    #[test]
    fn a_refusal_names_what_is_at_fault() {
        let document = serde_json::json!({"detail": "no: /c too", "pointer": "/a", "request": "r1",
            "errors": [{"pointer": "/c", "detail": "too"}, {"pointer": "/b", "detail": "is bad"}]});
        assert_eq!(refusal(&document), "no: /c too (pointer: /a)\n  /b is bad [request r1]");
    }
}
