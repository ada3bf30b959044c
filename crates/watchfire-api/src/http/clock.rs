//! The clock of the log.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use watchfire_model::Timestamp;

use super::AppState;
use super::extract::Admin;
use crate::problem::Problem;

/// What a confirmation changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClockView {
    /// Whether intake was paused because the clock was not believed, and goes on.
    resumed: bool,
    /// The time of the log from now on.
    #[schema(value_type = String)]
    log_time: Timestamp,
}

/// The clock of the server is right
///
/// Ends a pause of intake that began because the clock jumped ahead, or was far ahead of the last record at a start.
/// Without such a pause it changes nothing. What is in the log once never goes back: look at the clock first.
#[utoipa::path(post, path = "/clock/confirm", tag = "status", responses((status = 200, body = ClockView)))]
pub(crate) async fn confirm_clock(
    Admin(caller): Admin,
    State(state): State<AppState>,
) -> Result<axum::Json<ClockView>, Problem> {
    let resumed = state.log.confirm_clock();
    state.audit(&caller, "clock.confirm", "", None).await;
    Ok(axum::Json(ClockView { resumed, log_time: state.log.now() }))
}
