//! What somebody finds behind the link in a message, without a login: the alert, and two things to do about it.
//!
//! Looking changes nothing, since whatever scans mail follows links. Acting takes the form of the page.

mod page;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use axum::extract::rejection::FormRejection;
use axum::extract::{ConnectInfo, Form, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use serde::Deserialize;
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{Act, AlertDetail, AlertState, ShelveUntil, StoreError};

use super::envelope::AsItIs;
use super::{AppState, responses};
use crate::auth::Caller;
use crate::links::{Link, LinkFault};

/// Below which links are.
const BASE: &str = "/a/";

/// For so long one press shelves.
const SHELVED: Duration = Duration::from_secs(3600);

/// Bytes of a form at most: a remark of four thousand characters, each written as twelve.
const FORM: usize = 64 << 10;

/// The length of a name at most: it is told with what was done.
const NAME: usize = 100;

/// Requests from one address in a minute: somebody who reads pages does not come near, somebody who guesses does.
const PER_MINUTE: u32 = 60;

/// Addresses that are counted at once; the memory of them is bounded by forgetting all.
const ADDRESSES: usize = 10_000;

const MINUTE: Duration = Duration::from_secs(60);

/// Who came how often.
#[derive(Debug, Default)]
pub(crate) struct Visitors(Mutex<HashMap<IpAddr, (Timestamp, u32)>>);

impl Visitors {
    /// Counts a request; says whether it is one too many.
    fn too_many(&self, address: IpAddr, now: Timestamp) -> bool {
        // Whoever has one address of IPv6 has 2^64 of them.
        let address = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |since: Timestamp| since > now || since + MINUTE <= now;
        if known.len() >= ADDRESSES && !known.contains_key(&address) {
            known.retain(|_, (since, _)| !over(*since));
            if known.len() >= ADDRESSES {
                known.clear();
            }
        }
        let (since, count) = known.entry(address).or_insert((now, 0));
        if over(*since) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > PER_MINUTE
    }
}

/// The path for the log: a token is as good as the link.
pub(super) fn shown(path: &str) -> &str {
    if path.starts_with(BASE) { "/a/…" } else { path }
}

pub(super) fn router(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/a/{token}", axum::routing::get(show).post(act))
        .layer(axum::extract::DefaultBodyLimit::max(FORM))
        .layer(axum::middleware::from_fn_with_state(state.clone(), guard))
}

/// Counts visitors, and says to browsers what pages may do: nothing.
async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let peer = peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let mut response = if state.visitors.too_many(peer, state.clock.wall()) {
        let text = "There were too many requests from your address. Try again in a minute.";
        let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "Too many requests", text);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        response
    } else {
        next.run(request).await
    };
    response.extensions_mut().insert(AsItIs);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn html(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

fn plain(status: StatusCode, title: &str, text: &str) -> Response {
    html(status, page::plain(title, text))
}

/// The alert of a token, or the page that says why there is none.
async fn open(state: &AppState, token: &str) -> Result<(Link, AlertDetail), Response> {
    let link = state.links.read(token).map_err(|fault| match fault {
        LinkFault::Wrong => plain(
            StatusCode::FORBIDDEN,
            "This link is not good",
            "It was not made here, or lost a part on its way. Copy it whole from the message.",
        ),
        LinkFault::Expired(until) => {
            let text = format!("It was good until {until}. Look at the alert in Watchfire instead.");
            plain(StatusCode::GONE, "This link is too old", &text)
        }
    })?;
    match state.store.alert(&link.alert).await {
        Ok(detail) => Ok((link, detail)),
        Err(StoreError::NotFound { .. }) => {
            let text = "The alert is over, and is not kept any more.";
            Err(plain(StatusCode::GONE, "This alert is gone", text))
        }
        Err(error) => {
            tracing::error!(error = error.chain(), "an alert behind a link could not be read");
            Err(unavailable())
        }
    }
}

fn unavailable() -> Response {
    let text = "Watchfire cannot do this at the moment. Try again.";
    plain(StatusCode::SERVICE_UNAVAILABLE, "Not now", text)
}

async fn show(State(state): State<AppState>, Path(token): Path<String>) -> Response {
    match open(&state, &token).await {
        Ok((link, detail)) => {
            let form = state.links.form(&token).unwrap_or_default();
            html(StatusCode::OK, page::alert(&detail, &link, &form))
        }
        Err(page) => page,
    }
}

#[derive(Debug, Deserialize)]
struct Pressed {
    /// From the page.
    form: String,
    /// `acknowledge` or `shelve`.
    action: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    comment: String,
}

async fn act(
    State(state): State<AppState>,
    Path(token): Path<String>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    pressed: Result<Form<Pressed>, FormRejection>,
) -> Response {
    let (link, detail) = match open(&state, &token).await {
        Ok(found) => found,
        Err(page) => return page,
    };
    // Browsers say which page sent a form; programs that follow links do not, and have no form either.
    let elsewhere = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin");
    let pressed = match pressed {
        Ok(Form(pressed)) if !elsewhere && state.links.form_is_good(&token, &pressed.form) => pressed,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return plain(rejection.status(), "Too long", "The remark is too long.");
        }
        _ => {
            let text = "Open the link again and press the button on its page: the page was open for too long, or \
                        this was not sent from it.";
            return plain(StatusCode::FORBIDDEN, "Nothing was done", text);
        }
    };
    let (name, comment) = (pressed.name.trim(), pressed.comment.trim());
    if name.chars().count() > NAME || comment.chars().count() > responses::REMARK {
        return plain(StatusCode::UNPROCESSABLE_ENTITY, "Too long", "The name or the remark is too long.");
    }
    let alert = &detail.alert;
    let (action, wanted) = match pressed.action.as_str() {
        "acknowledge" => {
            let comment = (!comment.is_empty()).then(|| comment.to_string());
            let known = alert.acknowledged_at.is_some();
            ("alert.acknowledge", (!known).then_some(Ok(Act::Acknowledge { until: None, comment })))
        }
        "shelve" if link.shelve => {
            let now = state.clock.wall();
            let reason = if comment.is_empty() { "shelved for an hour by link" } else { comment };
            let policy = state.options.shelve;
            let shelved = alert.response.shelved_at.is_some();
            let shelve = || policy.shelve(ShelveUntil::Time(now + SHELVED), reason, now);
            ("alert.shelve", (!shelved).then(shelve))
        }
        _ => {
            return plain(StatusCode::FORBIDDEN, "Nothing was done", "The link does not allow this.");
        }
    };
    // What is so already, or over, is done: pressing twice is pressing once.
    if let Some(wanted) = wanted.filter(|_| alert.state == AlertState::Active) {
        let actor = match name {
            "" => format!("link:{}", link.receiver),
            name => format!("link:{} ({name})", link.receiver),
        };
        let done = match wanted {
            Ok(wanted) => state.store.respond(&link.alert, &wanted, &actor, state.clock.wall()).await,
            Err(error) => Err(error),
        };
        let refused = done.as_ref().err().map(ToString::to_string);
        let caller = Caller { name: actor, ..caller };
        state.audit(&caller, action, &link.alert, refused).await;
        match done {
            Ok(_) => {}
            Err(StoreError::Refused(why)) => {
                return plain(StatusCode::CONFLICT, "Nothing was done", &format!("It was refused: {why}."));
            }
            Err(error) => {
                tracing::error!(error = error.chain(), "what somebody did by link could not be written");
                return unavailable();
            }
        }
    }
    // To the same page, wherever a proxy has put it: loading it again does nothing again.
    (StatusCode::SEE_OTHER, [(header::LOCATION, token)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_bounded_by_minute_and_network() {
        let (visitors, now) = (Visitors::default(), Timestamp(1_767_225_600_000_000));
        let at = |address: &str, now| visitors.too_many(address.parse().unwrap(), now);
        for _ in 0..PER_MINUTE / 2 {
            assert!(!at("2001:db8::1", now) && !at("2001:db8::2", now));
        }
        assert!(at("2001:db8::3", now), "of the same network");
        assert!(!at("2001:db8:0:1::1", now) && !at("192.0.2.1", now));
        assert!(!at("2001:db8::1", now + MINUTE), "a minute later");
        assert!(!at("2001:db8::1", now), "the clock was set back");
        for n in 0..2 * ADDRESSES as u32 {
            visitors.too_many(IpAddr::V4(n.into()), now);
        }
        assert!(visitors.0.lock().unwrap().len() <= ADDRESSES);
    }
}
