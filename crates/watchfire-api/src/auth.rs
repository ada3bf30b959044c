//! Who asks, and what they may do.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use watchfire_model::Actor;
pub use watchfire_store::Role;

use crate::problem::Problem;

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The name of the token, or `anonymous`.
    pub name: String,
    /// What they may do; `None`: nothing that needs a role.
    pub role: Option<Role>,
    /// Why they have no role, where they have none.
    pub denied: Option<Denied>,
    /// The id of the request.
    pub request: String,
}

/// Why a caller has no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token was given, and anonymous access is not for this caller.
    Missing,
    /// The token is unknown, revoked or expired.
    Invalid,
}

impl Caller {
    /// Who did it, for control records and the audit trail.
    pub fn actor(&self, reason: Option<String>) -> Actor {
        Actor { name: self.name.clone(), reason, request: Some(self.request.clone()) }
    }

    /// Refuses a caller that may not do what this role may.
    pub fn require(&self, needed: Role) -> Result<(), Problem> {
        use axum::http::StatusCode;
        match (self.role, self.denied) {
            (Some(role), _) if role >= needed => Ok(()),
            (Some(role), _) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "role",
                format!("this needs the role {}; {:?} has {}", needed.as_str(), self.name, role.as_str()),
            )
            .with("needed", needed.as_str())),
            (None, Some(Denied::Invalid)) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "token-invalid",
                "the token is unknown, revoked or expired",
            )),
            (None, _) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "token-missing",
                "this needs a token: Authorization: Bearer",
            )),
        }
    }
}

/// Who may come without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Programs on this machine, as admin, as long as no token exists.
    #[default]
    Bootstrap,
    /// Programs on this machine, as admin, also when tokens exist.
    Loopback,
    /// Nobody.
    Never,
}

/// The secret of a request: `Authorization: Bearer`, and nothing else. A secret in an address would end up in
/// the logs of proxies.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// Whether the request comes from a program on this machine that nobody from outside steers: the peer is
/// this machine, no proxy handed it on, and it names this machine as the host (a page in a browser that
/// rebinds a name of its own to 127.0.0.1 names that) and as its origin, if it has one.
pub(crate) fn is_local(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let Some(ConnectInfo(peer)) = peer else { return false };
    if !peer.ip().to_canonical().is_loopback() {
        return false;
    }
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    if proxied.iter().any(|name| parts.headers.contains_key(*name)) {
        return false;
    }
    let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // HTTP/2 carries the host in the address of the request.
    let host = text(header::HOST).or(parts.uri.authority().map(|authority| authority.as_str()));
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    host.is_none_or(names_this_machine) && origin.is_none_or(names_this_machine)
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn check(peer: Option<&str>, headers: &[(&str, &str)], expected: bool) {
        let mut request = Request::builder().uri("/api/v1/rules");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(peer) = peer {
            parts.extensions.insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
        assert_eq!(is_local(&parts), expected, "{peer:?} {headers:?}");
    }

    #[test]
    fn only_programs_on_this_machine_are_local() {
        let here = Some("127.0.0.1:5000");
        check(here, &[("host", "127.0.0.1:8080")], true);
        check(Some("[::1]:5000"), &[("host", "[::1]:8080")], true);
        check(Some("[::ffff:127.0.0.1]:5000"), &[("host", "localhost")], true);
        check(here, &[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true);
        check(None, &[("host", "localhost")], false);
        check(Some("10.0.0.1:5000"), &[("host", "localhost")], false);
        check(here, &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")], false);
        check(here, &[("host", "evil.example:8080")], false);
        check(here, &[("host", "localhost"), ("origin", "https://evil.example")], false);
        check(here, &[("host", "localhost"), ("origin", "null")], false);
    }

    #[test]
    fn a_role_may_what_lesser_roles_may() {
        let caller = |role| Caller { name: "t".into(), role, denied: None, request: "r".into() };
        assert!(caller(Some(Role::Admin)).require(Role::Viewer).is_ok());
        assert_eq!(caller(Some(Role::Viewer)).require(Role::Operator).unwrap_err().status, 403);
        assert_eq!(caller(None).require(Role::Viewer).unwrap_err().status, 401);
        assert!("root".parse::<Role>().is_err() && "author".parse() == Ok(Role::Author));
    }

    #[test]
    fn bearer_tokens_are_found() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(String::from)
        };
        assert_eq!(of("bearer abc"), Some("abc".into()));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("abc"), None);
    }
}
