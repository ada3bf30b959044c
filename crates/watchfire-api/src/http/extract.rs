//! What handlers take: a caller with a role, a body, a query. Each refuses with a problem document.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::auth::{Caller, Role};
use crate::problem::Problem;

/// A caller with at least a role. As the first argument of a handler it is checked before the body is read.
macro_rules! caller_with {
    ($name:ident, $role:expr, $doc:literal) => {
        #[doc = $doc]
        pub(crate) struct $name(pub Caller);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
                caller(parts, $role).map(Self)
            }
        }
    };
}
/// Somebody who may look. Looking leaves no trace, so nothing is known of them.
pub(crate) struct Viewer;

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts, Role::Viewer).map(|_| Self)
    }
}

fn caller(parts: &Parts, needed: Role) -> Result<Caller, Problem> {
    let caller = parts.extensions.get::<Caller>().cloned();
    let caller =
        caller.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "token-missing", "nobody asks"))?;
    caller.require(needed)?;
    Ok(caller)
}
caller_with!(Operator, Role::Operator, "Somebody who may handle alerts.");
caller_with!(Author, Role::Author, "Somebody who may deploy.");
caller_with!(Admin, Role::Admin, "Somebody who may do everything.");

/// A JSON body.
pub(crate) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = body(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be missing: then every member has its default.
pub(crate) struct JsonOrDefault<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(Self)
    }
}

/// A body of any kind.
pub(crate) struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        body(request, state).await.map(Self)
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection: BytesRejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is larger than this call takes",
        ),
        status => Problem::new(status, "body", "the body could not be read"),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let problem = Problem::bad_request("json", format!("the body is not what this call takes: {error}"));
        problem.with("line", error.line()).with("column", error.column())
    })
}

/// The query of the address.
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::bad_request("query", rejection.body_text())),
        }
    }
}

/// A part of the path.
pub(crate) struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(rejection @ PathRejection::FailedToDeserializePathParams(_)) => {
                Err(Problem::bad_request("path", rejection.body_text()))
            }
            Err(rejection) => Err(Problem::new(rejection.status(), "path", rejection.body_text())),
        }
    }
}
