//! What an answer means for a batch.

use std::time::Duration;

use watchfire_outbound::{Outcome, Retry};

use crate::contract::Failure;

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The service has all of it.
    Taken,
    /// Something in it is what the service will never take.
    Refused(String),
    /// Later, not before this time where the service said one.
    Later(Failure, Option<Duration>),
}

/// Answers that speak of what a request holds: a request with less in it may pass. What else the sender holds to be final
/// (405, 410, 415 ...) is said of every request alike: that is no reason to throw all readings away.
const OF_THE_CONTENT: [u16; 3] = [400, 413, 422];

pub(super) fn answer(outcome: Outcome) -> Answer {
    let (retry, status, error) = match outcome {
        Outcome::Delivered { .. } => return Answer::Taken,
        Outcome::Failed { retry, status, error } => (retry, status, error),
    };
    if status.is_some_and(|status| OF_THE_CONTENT.contains(&status)) {
        return Answer::Refused(error);
    }
    let code = match status {
        None => "unreachable",
        Some(401 | 403 | 407) => "credentials",
        Some(404 | 410) => "not-found",
        Some(408) => "slow",
        Some(429) => "overloaded",
        Some(500..) => "unavailable",
        Some(_) => "refused",
    };
    let after = match retry {
        Retry::Later(after) => after,
        Retry::Never => None,
    };
    Answer::Later(Failure::retry(code, error), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_the_content_refuses_it() {
        let check = |status: Option<u16>, expected: &str| {
            let failed = Outcome::Failed { retry: Retry::Never, status, error: "x".into() };
            let found = match answer(failed) {
                Answer::Taken => "taken",
                Answer::Refused(_) => "row",
                Answer::Later(Failure::Retry { code, .. }, None) => code,
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{status:?}");
        };
        assert_eq!(answer(Outcome::Delivered { status: 202 }), Answer::Taken);
        for status in [400, 413, 422] {
            check(Some(status), "row");
        }
        check(None, "unreachable");
        check(Some(401), "credentials");
        check(Some(404), "not-found");
        check(Some(405), "refused");
        check(Some(410), "not-found");
        check(Some(429), "overloaded");
        check(Some(503), "unavailable");
        let busy = Outcome::Failed {
            retry: Retry::Later(Some(Duration::from_secs(3))),
            status: Some(429),
            error: "x".into(),
        };
        assert!(matches!(answer(busy), Answer::Later(_, Some(wait)) if wait.as_secs() == 3));
    }
}
