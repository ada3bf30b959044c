//! Tokens of people and programs.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watchfire_model::{Duration, Timestamp};
use watchfire_store::{NewToken, Role, TokenRow};

use super::AppState;
use super::extract::{Admin, Json, Path, Query};
use super::page::{Listing, PageQuery};
use crate::problem::Problem;

/// A token; never its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    id: String,
    name: String,
    /// `viewer`, `operator`, `author` or `admin`.
    role: &'static str,
    #[schema(value_type = String)]
    created_at: Timestamp,
    created_by: String,
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    last_used: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    revoked_at: Option<Timestamp>,
}

/// What `POST /tokens` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// What people call it.
    name: String,
    /// `viewer`, `operator`, `author` or `admin`.
    #[schema(value_type = String)]
    role: Role,
    /// It stops working after this span: `30d`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    expires_in: Option<Duration>,
}

/// A new token: the secret is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    #[serde(flatten)]
    token: TokenView,
    secret: String,
}

fn view(row: TokenRow) -> TokenView {
    TokenView {
        id: row.id,
        name: row.name,
        role: row.role.as_str(),
        created_at: row.created_at,
        created_by: row.created_by,
        expires_at: row.expires_at,
        last_used: row.last_used,
        revoked_at: row.revoked_at,
    }
}

/// All tokens
#[utoipa::path(get, path = "/tokens", tag = "tokens", params(PageQuery),
    responses((status = 200, body = Listing<TokenView>)))]
pub(crate) async fn list_tokens(
    _: Admin,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Listing<TokenView>>, Problem> {
    let mut rows = state.store.tokens().await?;
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(axum::Json(page.cut(rows, |row| &row.id)?.map(view)))
}

/// Makes a token; the secret is shown this once
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, body = TokenAnswer), (status = 422)))]
pub(crate) async fn add_token(
    Admin(caller): Admin,
    State(state): State<AppState>,
    Json(request): Json<TokenRequest>,
) -> Result<(StatusCode, axum::Json<TokenAnswer>), Problem> {
    if request.name.trim().is_empty() || request.name.len() > 128 || request.name.contains(char::is_control) {
        let detail = "the name of a token has 1 to 128 bytes, none of them a control character";
        return Err(Problem::refused("token-name", detail).with("pointer", "/name"));
    }
    let new = NewToken {
        name: request.name,
        role: request.role,
        by: caller.name.clone(),
        expires_at: request.expires_in.map(|span| state.clock.wall() + span),
    };
    let (row, secret) = state.store.create_token(&new).await?;
    state
        .audit(&caller, "token.create", &format!("{} {} {}", row.id, row.name, row.role.as_str()), None)
        .await;
    let answer = TokenAnswer { token: view(row), secret: secret.expose().to_string() };
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Takes a token back for good
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 404)))]
pub(crate) async fn revoke_token(
    Admin(caller): Admin,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    state.store.revoke_token(&id).await?;
    state.audit(&caller, "token.revoke", &id, None).await;
    Ok(StatusCode::NO_CONTENT)
}
