//! How good the alerts are for the people who get them.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use watchfire_model::Duration;
use watchfire_store::{Quality, QualityFilter};

use super::AppState;
use super::alerts::parameter;
use super::extract::{Query, Viewer};
use crate::problem::Problem;

/// Over what is measured where nothing is said: what a day brought.
const SPAN: Duration = Duration::from_secs(24 * 3600);

/// The longest span: every alert of it is read.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// An alert that ended within this is fleeting, where nothing else is said.
const FLEETING: Duration = Duration::from_secs(30);

/// The most of the worst that are named.
const MOST: u32 = 100;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct QualityQuery {
    /// The span until now, or until `to`: `24h` where it is missing, `31d` at most.
    span: Option<String>,
    /// Its end; missing: now.
    to: Option<String>,
    /// Only devices of this site.
    site: Option<String>,
    /// Only this rule.
    rule: Option<String>,
    /// An alert that ended within this is fleeting: `30s` where it is missing.
    fleeting: Option<String>,
    /// So many of the worst rules, devices and conditions: 1 to 100, 10 where it is missing.
    top: Option<u32>,
}

/// Rates, floods, bad actors, chattering, fleeting and standing alerts, and how long acknowledgements take
///
/// By EEMUA-191 and ISA-18.2. Reads every alert of the span.
#[utoipa::path(get, path = "/alerts/statistics", tag = "alerts", params(QualityQuery),
    responses((status = 200, body = Quality), (status = 400)))]
pub(crate) async fn alert_statistics(
    _: Viewer,
    State(state): State<AppState>,
    Query(query): Query<QualityQuery>,
) -> Result<axum::Json<Quality>, Problem> {
    let span = parameter::<Duration>("span", query.span.as_deref())?.unwrap_or(SPAN);
    let bad = |name: &str, detail: String| Err(Problem::bad_request("query", detail).with("parameter", name));
    if span == Duration::ZERO || span > LONGEST {
        return bad(
            "span",
            format!("a span is longer than nothing and not longer than {LONGEST}, not {span}"),
        );
    }
    let top = query.top.unwrap_or(10);
    if !(1..=MOST).contains(&top) {
        return bad("top", format!("top is 1 to {MOST}, not {top}"));
    }
    let to = super::page::time("to", query.to.as_deref())?.unwrap_or_else(|| state.clock.wall());
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let filter = QualityFilter {
        from: to - span,
        to,
        site: given(query.site),
        rule: given(query.rule),
        fleeting: parameter("fleeting", query.fleeting.as_deref())?.unwrap_or(FLEETING),
        top: top as usize,
    };
    Ok(axum::Json(state.store.quality(&filter).await?))
}
