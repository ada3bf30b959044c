//! Every list comes in parts: `limit` bounds one, `cursor` asks for the following.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use watchfire_model::Timestamp;

use crate::problem::Problem;

/// Items of one part at most.
const MOST: u32 = 1000;

/// Which part of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub(crate) struct PageQuery {
    /// Items at most: 1 to 1000, default 100.
    pub limit: Option<u32>,
    /// `next` of the part before.
    pub cursor: Option<String>,
}

/// One part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Listing<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it as `cursor` to get the following items; missing: these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Listing<T> {
    /// The same part with other items.
    pub(crate) fn map<U>(self, convert: impl FnMut(T) -> U) -> Listing<U> {
        Listing { items: self.items.into_iter().map(convert).collect(), next: self.next }
    }
}

impl PageQuery {
    /// How many items.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        match self.limit {
            None => Ok(100),
            Some(limit @ 1..=MOST) => Ok(limit),
            Some(limit) => Err(Problem::bad_request("query", format!("limit is 1 to {MOST}, not {limit}"))
                .with("parameter", "limit")),
        }
    }

    /// Cuts the part out of all items, which are ordered by their key. The cursor is the last key before it.
    pub(crate) fn cut<T>(&self, items: Vec<T>, key: impl Fn(&T) -> &str) -> Result<Listing<T>, Problem> {
        let limit = self.limit()? as usize;
        let start = match &self.cursor {
            Some(cursor) => items.partition_point(|item| key(item) <= cursor.as_str()),
            None => 0,
        };
        let more = items.len() > start + limit;
        let items: Vec<T> = items.into_iter().skip(start).take(limit).collect();
        let next = if more { items.last().map(|item| key(item).to_string()) } else { None };
        Ok(Listing { items, next })
    }
}

/// A time in the query of an address: RFC 3339, or integer milliseconds since the epoch. Empty is as if it were
/// missing.
pub(crate) fn time(name: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let parsed = match text.parse::<i64>() {
        Ok(milliseconds) => {
            Timestamp::from_millis(milliseconds).ok_or_else(|| "milliseconds out of range".to_string())
        }
        Err(_) => text.parse::<Timestamp>().map_err(|error| error.to_string()),
    };
    parsed.map(Some).map_err(|detail| Problem::bad_request("query", detail).with("parameter", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_texts_or_milliseconds() {
        let of = |text: &str| time("since", Some(text)).map_err(|problem| problem.status.as_u16());
        let midnight = Some(Timestamp(1_767_225_600_000_000));
        assert_eq!(of("1767225600000"), Ok(midnight));
        assert_eq!(of("2026-01-01T00:00:00Z"), Ok(midnight));
        assert_eq!(of(""), Ok(None));
        for bad in ["yesterday", "1767225600000.5", "9223372036854775807"] {
            assert_eq!(of(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn parts_follow_each_other_without_gap_or_repeat() {
        let all: Vec<String> = (0..7).map(|i| format!("item-{i}")).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = PageQuery { limit: Some(3), cursor: cursor.take() };
            let listing = page.cut(all.clone(), |item| item).unwrap();
            seen.extend(listing.items);
            cursor = listing.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        assert!(PageQuery { limit: Some(0), cursor: None }.limit().is_err());
    }
}
