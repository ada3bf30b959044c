//! Who asks, and what they may do.

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

/// The secret of a request: `Authorization: Bearer`, and nothing else (but for Alertmanager's API, whose programs may
/// know no other way than basic authentication). A secret in an address would end up in
/// the logs of proxies.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

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
