//! Modules: upload, list, delete.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use watchfire_model::Digest;

use super::AppState;
use super::extract::{Author, Path, Query, Raw, Viewer};
use super::page::{Listing, PageQuery};
use crate::contract::ModuleInfo;
use crate::problem::Problem;

/// All modules
#[utoipa::path(get, path = "/modules", tag = "modules", params(PageQuery),
    responses((status = 200, body = Listing<ModuleInfo>)))]
pub(crate) async fn list_modules(
    _: Viewer,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Listing<ModuleInfo>>, Problem> {
    let modules: Vec<_> =
        state.control.modules().into_iter().map(|info| (info.digest.to_string(), info)).collect();
    Ok(axum::Json(page.cut(modules, |(digest, _)| digest)?.map(|(_, info)| (*info).clone())))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct UploadQuery {
    /// Only look at it: it is not stored, and for some minutes the dry run of a rule may name its digest.
    dry_run: bool,
}

/// Uploads a component
///
/// It is looked at before it is compiled: an import outside of the contract is refused by name.
#[utoipa::path(post, path = "/modules", tag = "modules", params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 201, body = ModuleInfo), (status = 200, body = ModuleInfo, description = "known already"),
        (status = 413), (status = 422, description = "names the import, export or limit")))]
pub(crate) async fn add_module(
    Author(caller): Author,
    State(state): State<AppState>,
    Query(query): Query<UploadQuery>,
    Raw(body): Raw,
) -> Result<(StatusCode, axum::Json<ModuleInfo>), Problem> {
    // Hashing and copying 18 MB would hold up whatever else this thread serves: readings among it.
    let (digest, bytes) = tokio::task::spawn_blocking({
        let body = body.clone();
        move || (Digest::of(&body), Arc::<[u8]>::from(&body[..]))
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    if let Some(info) = state.control.module(digest) {
        return Ok((StatusCode::OK, axum::Json((*info).clone())));
    }
    let info = match state.works.add(bytes).await {
        Ok(info) => info,
        Err(refusal) => {
            if !query.dry_run {
                state.audit(&caller, "module.add", &digest.to_string(), Some(refusal.to_string())).await;
            }
            // Nothing is wrong with the component: the same may be sent again.
            if refusal.code == "busy" {
                return Err(Problem::unavailable("module-busy", refusal.detail));
            }
            return Err(Problem::refused("module", refusal.detail)
                .with("reason", refusal.code)
                .with("digest", digest.to_string()));
        }
    };
    let info = ModuleInfo { uploaded_at: state.clock.wall(), ..info };
    if query.dry_run {
        state.control.add_candidate(info.clone());
        return Ok((StatusCode::OK, axum::Json(info)));
    }
    let row = watchfire_store::ModuleRow {
        digest,
        name: info.name.clone(),
        version: info.version.clone(),
        language: info.language.clone().unwrap_or_default(),
        size: info.size,
        report: serde_json::json!(info),
        created_at: info.uploaded_at,
        created_by: caller.name.clone(),
    };
    // Stored before it is known: a rule that names it must find it again after a restart.
    state.store.add_module(&row, body.to_vec()).await?;
    state.control.add_module(info.clone());
    let subject = format!("{}@{} {digest}", info.name, info.version);
    state.audit(&caller, "module.add", &subject, None).await;
    Ok((StatusCode::CREATED, axum::Json(info)))
}

/// One module
#[utoipa::path(get, path = "/modules/{digest}", tag = "modules",
    params(("digest" = String, Path, description = "a digest, a name, or name@version")),
    responses((status = 200, body = ModuleInfo), (status = 404)))]
pub(crate) async fn get_module(
    _: Viewer,
    State(state): State<AppState>,
    Path(reference): Path<String>,
) -> Result<axum::Json<ModuleInfo>, Problem> {
    let info = state.control.find_module(&reference);
    Ok(axum::Json((*info.ok_or_else(|| Problem::not_found("module", &reference))?).clone()))
}

/// A module that no rule can name any more, but whose bytes stay for a while.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModuleDeleted {
    #[schema(value_type = String)]
    digest: Digest,
    /// Why.
    kept: &'static str,
}

/// Deletes a module that no rule uses
///
/// Its bytes stay as long as the log holds records from before the end of a rule that ran it, because a replay needs
/// them: the answer then is 202. They go with a start after that.
#[utoipa::path(delete, path = "/modules/{digest}", tag = "modules", params(("digest" = String, Path)),
    responses((status = 204), (status = 202, body = ModuleDeleted), (status = 404),
        (status = 409, description = "a rule uses it")))]
pub(crate) async fn delete_module(
    Author(caller): Author,
    State(state): State<AppState>,
    Path(reference): Path<String>,
) -> Result<Response, Problem> {
    // By digest alone: a name would delete whatever it means at this moment.
    let digest: Digest = reference.parse().map_err(|_| Problem::not_found("module", &reference))?;
    if state.control.module(digest).is_none() {
        return Err(Problem::not_found("module", &reference));
    }
    let kept = state.control.forget_module(digest).await;
    let kept = match kept {
        Ok(kept) => kept,
        Err(rules) => {
            let detail = format!("versions of {} use it", rules.join(", "));
            state.audit(&caller, "module.delete", &reference, Some(detail.clone())).await;
            return Err(Problem::conflict("module-in-use", detail).with("rules", rules));
        }
    };
    if kept {
        // The loop may replay records in which a rule ran it, after a crash or from a backup.
        state.store.delete_module_row(&digest).await?;
        state.audit(&caller, "module.delete", &reference, None).await;
        let kept = "the log still holds records of a rule that ran it: the bytes stay until it does not";
        let answer = ModuleDeleted { digest, kept };
        return Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response());
    }
    state.store.delete_module(&digest).await?;
    state.works.remove(digest);
    state.audit(&caller, "module.delete", &reference, None).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}
