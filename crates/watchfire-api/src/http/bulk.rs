//! Many dead letters used once more, a slice with each call.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::dead_letters::{DeadLetterQuery, claim_and_replay};
use super::extract::{Operator, Query};
use super::page::PageQuery;
use crate::problem::Problem;

/// Refusals that are told one by one: who has more looks at the letters.
const TOLD: usize = 20;

/// What came of a slice.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct BulkAnswer {
    /// Letters that were looked at.
    letters: u64,
    /// Letters that were used, or used together with one of the same record.
    replayed: u64,
    /// Letters that stay as they are.
    refused: u64,
    /// Why, of the first of them.
    refusals: Vec<Refusal>,
    /// Give it as `cursor` to go on with the following letters; missing: these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Why a letter stays as it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refusal {
    id: String,
    code: &'static str,
    detail: String,
}

/// Uses many dead letters once more, the earliest first
///
/// Those that were not replayed and that the filters choose; `limit` letters with one call, and `next` goes on. Each is
/// used as a replay of its own would use it, so a call that is repeated uses none twice.
#[utoipa::path(post, path = "/dead-letters:replay", tag = "dead letters", params(PageQuery, DeadLetterQuery),
    responses((status = 200, body = BulkAnswer),
        (status = 503, description = "not now; what was used until then is marked so")))]
pub(crate) async fn replay_dead_letters(
    Operator(caller): Operator,
    State(state): State<AppState>,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeadLetterQuery>,
) -> Result<axum::Json<BulkAnswer>, Problem> {
    let filter = query.filter(page)?;
    // Up to the last letter of the first call: one that fails again makes another letter, and that is not used here, or
    // it would go on without end.
    let cursor = |text: &str| {
        let (behind, upto) = text.split_once('-')?;
        Some((behind.parse::<i64>().ok()?, upto.parse::<i64>().ok()?))
    };
    let (behind, upto) = match filter.cursor.as_deref().map(cursor) {
        None => (0, state.store.last_letter().await?),
        Some(Some(part)) => part,
        Some(None) => {
            let detail = "the cursor is not one that a call before has given";
            return Err(Problem::bad_request("query", detail).with("parameter", "cursor"));
        }
    };
    // A task of its own, as for a single one: what is used must be marked, whatever becomes of the caller.
    let replayed = tokio::spawn(async move {
        let found = state.store.letters_to_replay(&filter, behind, upto).await?;
        let full = found.len() as u32 >= filter.limit;
        let mut answer = BulkAnswer::default();
        for (sequence, id) in found {
            answer.letters += 1;
            answer.next = full.then(|| format!("{sequence}-{upto}"));
            match claim_and_replay(&state, &caller, &id).await {
                Ok(_) => answer.replayed += 1,
                // It went together with one before it.
                Err(problem) if problem.code == "replayed" => answer.replayed += 1,
                // It was deleted meanwhile, or its bounds dropped it.
                Err(problem) if problem.status == StatusCode::NOT_FOUND => {}
                Err(problem) if problem.status.is_server_error() => return Err(problem),
                Err(problem) => {
                    answer.refused += 1;
                    if answer.refusals.len() < TOLD {
                        answer.refusals.push(Refusal { id, code: problem.code, detail: problem.detail });
                    }
                }
            }
        }
        Ok(answer)
    });
    match replayed.await {
        Ok(answer) => answer.map(axum::Json),
        Err(error) => Err(Problem::internal(&error)),
    }
}
