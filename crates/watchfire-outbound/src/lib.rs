//! What is sent to somebody else. [`Sender`] makes one attempt over HTTP and says what came of it; when and how often is
//! the business of whoever has something to tell: the delivery worker of notification, the lane of a sink.
//!
//! [`mqtt`] is a connection to a broker, [`kafka`] what all clients of brokers have in common: of both, sinks and channels
//! of notification make their own.

mod fault;
pub mod kafka;
pub mod mqtt;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Body, Client, StatusCode, Url, redirect};
use watchfire_model::{Secret, Timestamp};

pub use fault::{Fault, Wrong};

/// The id of what is sent: the same on every attempt, so that a receiver can tell a repetition
/// (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A receiver that asks for more patience than this is tried all the same.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered {
        /// What it answered.
        status: u16,
    },
    /// It did not.
    Failed {
        /// Whether it makes sense to try again.
        retry: Retry,
        /// What it answered, if it did.
        status: Option<u16>,
        /// What went wrong, without addresses, headers or bodies: those may hold secrets.
        error: String,
    },
}

tokio::task_local! {
    /// The last answer of this task, while somebody listens.
    static HEARD: RefCell<Vec<u8>>;
}

/// Characters of an answer that are shown to people.
const SHOWN: usize = 500;

/// Does something, and gives beside what came of it the beginning of the last answer that a [`Sender`] got in it: for
/// people who try out whether somebody can be told. An answer may say more than is to be kept.
pub async fn heard<T>(attempt: impl Future<Output = T>) -> (T, Option<String>) {
    HEARD
        .scope(RefCell::default(), async {
            let came = attempt.await;
            let answer = HEARD.with(RefCell::take);
            let text: String = String::from_utf8_lossy(&answer).chars().take(SHOWN).collect();
            let text = text.trim();
            (came, (!text.is_empty()).then(|| text.to_string()))
        })
        .await
}

/// Whether an attempt is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes; not before this time, where the receiver said one.
    Later(Option<Duration>),
    /// The receiver will never take it.
    Never,
}

/// Where requests go, as somebody configured it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// `http://` or `https://`.
    pub url: &'a Secret,
    /// Sent with each request, such as `Authorization`.
    pub headers: &'a BTreeMap<String, Secret>,
    /// For a whole request.
    pub timeout: Duration,
    /// Headers, in lower case, that the one who sends sets himself beside [`IDEMPOTENCY_KEY`] and those of the body.
    pub reserved: &'static [&'static str],
}

impl Target<'_> {
    fn parsed_url(&self) -> Result<Url, String> {
        // The text is not repeated: it may hold a secret.
        let url = self.url.read().map_err(|error| format!("url: {error}"))?;
        let url = Url::parse(&url).map_err(|error| format!("url: {error}"))?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(url),
            _ => Err("url: begins with http:// or https:// and names a host".into()),
        }
    }

    fn parsed_headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let key: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is no header name"))?;
            if [IDEMPOTENCY_KEY, "content-type", "content-length"].contains(&key.as_str())
                || self.reserved.contains(&key.as_str())
            {
                return Err(format!("headers: {name} is set by Watchfire"));
            }
            let value = value.read().map_err(|error| format!("headers: {name}: {error}"))?;
            let mut value: HeaderValue =
                value.parse().map_err(|_| format!("headers: the value of {name} is no header value"))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        Ok(headers)
    }

    /// Says what is wrong, if anything is, beginning with the key: `url`, `headers` or `timeout`.
    pub fn check(&self) -> Result<(), String> {
        if self.timeout.is_zero() {
            return Err("timeout: is above 0s".into());
        }
        self.place().map(drop)
    }

    fn place(&self) -> Result<Place, String> {
        Ok(Place { url: self.parsed_url()?, headers: self.parsed_headers()? })
    }
}

/// A target with its secrets as they were read.
struct Place {
    url: Url,
    headers: HeaderMap,
}

/// Sends to one target. Its connections are kept open, and shared by its clones. After an attempt that failed, secrets
/// that stand in files are read anew: the next one goes with those that are there then.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    place: Arc<RwLock<Place>>,
    /// What the place is made of, where that may change.
    given: Option<Arc<Given>>,
}

/// A target as somebody configured it.
struct Given {
    url: Secret,
    headers: BTreeMap<String, Secret>,
    reserved: &'static [&'static str],
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Makes the client of a target. Connects to nothing.
    pub fn new(target: &Target<'_>) -> Result<Self, String> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An error says that somebody has chosen one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let client = Client::builder()
            .timeout(target.timeout)
            .connect_timeout(target.timeout.min(Duration::from_secs(5)))
            // A redirect could carry the message and its headers to another host, and turns POST into GET.
            .redirect(redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_max_idle_per_host(32)
            .pool_idle_timeout(Duration::from_secs(90))
            .user_agent(concat!("watchfire/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.without_url().to_string())?;
        let changes =
            std::iter::once(target.url).chain(target.headers.values()).any(|secret| secret.file().is_some());
        let given = changes.then(|| {
            let Target { url, headers, reserved, .. } = *target;
            Arc::new(Given { url: url.clone(), headers: headers.clone(), reserved })
        });
        Ok(Self { client, place: Arc::new(RwLock::new(target.place()?)), given })
    }

    /// Scheme, host and port, for people: what else an address says may be a secret.
    pub fn origin(&self) -> String {
        self.place.read().unwrap_or_else(PoisonError::into_inner).url.origin().ascii_serialization()
    }

    /// One attempt: a POST under an id, with these headers beside.
    pub async fn post(
        &self,
        id: &str,
        content_type: &str,
        beside: &[(&'static str, &str)],
        body: impl Into<Body>,
        now: Timestamp,
    ) -> Outcome {
        self.ask(id, content_type, beside, body, now).await.0
    }

    /// As [`Sender::post`], with the beginning of the answer: for those who say there what came of it.
    pub async fn ask(
        &self,
        id: &str,
        content_type: &str,
        beside: &[(&'static str, &str)],
        body: impl Into<Body>,
        now: Timestamp,
    ) -> (Outcome, Vec<u8>) {
        let mut answer = Vec::new();
        let (url, headers) = {
            let place = self.place.read().unwrap_or_else(PoisonError::into_inner);
            (place.url.clone(), place.headers.clone())
        };
        // Nobody listens but where somebody tries a receiver.
        let sent = HEARD.try_with(|_| secrets(&url, &headers)).ok();
        let mut request = self
            .client
            .post(url)
            .headers(headers)
            .header(CONTENT_TYPE, content_type)
            .header(IDEMPOTENCY_KEY, id)
            .body(body);
        for (name, value) in beside {
            request = request.header(*name, *value);
        }
        let outcome = match request.send().await {
            Ok(mut response) => {
                let status = response.status();
                let after = retry_after(response.headers(), now);
                // Read the answer to its end, so that the connection can be used again; a long one is not
                // worth it. One that breaks off may be that of a proxy whose service died: what it says does not count.
                let mut whole = true;
                while answer.len() < 64 << 10 {
                    match response.chunk().await {
                        Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
                        Ok(None) => break,
                        Err(_) => {
                            whole = false;
                            break;
                        }
                    }
                }
                match whole {
                    true => classify(status, after),
                    false => Outcome::Failed {
                        retry: Retry::Later(after),
                        status: Some(status.as_u16()),
                        error: format!("answered {}, and the answer broke off", status.as_u16()),
                    },
                }
            }
            Err(error) => {
                let what = if error.is_timeout() {
                    "no answer in time".to_string()
                } else if error.is_connect() {
                    format!("cannot connect: {}", innermost(&error))
                } else {
                    format!("the request failed: {}", innermost(&error))
                };
                Outcome::Failed { retry: Retry::Later(None), status: None, error: what }
            }
        };
        if matches!(outcome, Outcome::Failed { .. }) {
            self.read_anew();
        }
        if let Some(sent) = sent {
            let _ = HEARD.try_with(|heard| heard.replace(blackened(&answer, &sent)));
        }
        (outcome, answer)
    }

    /// Where a file cannot be read, or holds nothing that could be sent, what was there before counts on.
    fn read_anew(&self) {
        let Some(given) = &self.given else { return };
        let Given { url, headers, reserved } = &**given;
        let target = Target { url, headers, timeout: Duration::ZERO, reserved };
        if let Ok(place) = target.place() {
            *self.place.write().unwrap_or_else(PoisonError::into_inner) = place;
        }
    }
}

/// What of a request may be a secret: values of headers, and the parts of the address behind the host.
fn secrets(url: &Url, headers: &HeaderMap) -> Vec<String> {
    let headers = headers.values().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(' '));
    let address =
        url.path().split('/').chain(url.query().into_iter().flat_map(|query| query.split(['&', '='])));
    // What is shorter is a word.
    headers.chain(address).filter(|part| part.len() >= 8).map(String::from).collect()
}

/// An answer without what it repeats of them.
fn blackened(answer: &[u8], secrets: &[String]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer);
    secrets.iter().fold(text.into_owned(), |text, secret| text.replace(secret.as_str(), "***")).into_bytes()
}

/// The last of the causes: what the operating system or TLS said. The outer ones name the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut inner = None;
    while let Some(next) = cause.source() {
        inner = Some(next);
        cause = next;
    }
    inner.map_or_else(|| "no further cause".into(), ToString::to_string)
}

/// Answers that are about the message itself, or say in so many words that it will never do: the same one will be
/// refused again. 400, 406, 411, 413, 414, 415, 422, 431; and 405 and 410, which no deployment answers on its way.
const NEVER: [u16; 10] = [400, 405, 406, 410, 411, 413, 414, 415, 422, 431];

/// What an answer means: 2xx taken; what is about this message never; everything else comes again until it expires:
/// 5xx and 429 of course, and also 401, 403 and 404, which a proxy answers for a receiver that is being deployed, and
/// a receiver whose secret is being changed; redirects, a mistake in a configuration that somebody may put right.
fn classify(status: StatusCode, after: Option<Duration>) -> Outcome {
    let code = status.as_u16();
    if status.is_success() {
        return Outcome::Delivered { status: code };
    }
    let error = if status.is_redirection() {
        format!("answered {code}; redirects are not followed")
    } else {
        format!("answered {code} {}", status.canonical_reason().unwrap_or_default()).trim_end().to_string()
    };
    let retry = if NEVER.contains(&code) { Retry::Never } else { Retry::Later(after) };
    Outcome::Failed { retry, status: Some(code), error }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date: Timestamp = httpdate(text)?;
            date.since(now).to_std()
        }
    };
    Some(wait.min(PATIENCE))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that is still sent.
fn httpdate(text: &str) -> Option<Timestamp> {
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day:0>2}T{time}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: u16, expected: Option<Retry>) {
        let after = Some(Duration::from_secs(7));
        let found = match classify(StatusCode::from_u16(code).unwrap(), after) {
            Outcome::Delivered { .. } => None,
            Outcome::Failed { retry, .. } => Some(retry),
        };
        assert_eq!(found, expected, "{code}");
    }

    #[test]
    fn answers_are_told_apart() {
        let later = Some(Retry::Later(Some(Duration::from_secs(7))));
        for code in [200, 202, 204] {
            check(code, None);
        }
        for code in [302, 401, 403, 404, 407, 408, 409, 421, 425, 429, 500, 501, 502, 503, 504] {
            check(code, later);
        }
        for code in [400, 405, 410, 413, 415, 422] {
            check(code, Some(Retry::Never));
        }
    }

    #[test]
    fn an_answer_does_not_repeat_what_was_secret() {
        let url = Url::parse("https://h.example/hooks/T0123456789?key=abcdefghij&v=1").unwrap();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, "Bearer s3cret-token".parse().unwrap())]);
        let answer = b"no hooks/T0123456789 for Bearer s3cret-token, key abcdefghij, v=1";
        let shown = blackened(answer, &secrets(&url, &headers));
        assert_eq!(String::from_utf8(shown).unwrap(), "no hooks/*** for Bearer ***, key ***, v=1");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(of("999999"), Some(3600));
        assert_eq!(of("soon"), None);
    }
}
