//! What an error of the server means: by its SQLSTATE (PostgreSQL documentation, appendix A).

use watchfire_model::chain;

use crate::contract::Failure;

/// Whether the fault lies in a row: without it the rest would pass.
pub(super) fn of_a_row(error: &sqlx::Error) -> bool {
    let Some(code) = state(error) else { return false };
    // Data exception; integrity constraint (somebody added one); program limit, such as a text that is too long for an
    // index; raised by a trigger; a partition that a constraint made by hand excludes is of class 23.
    matches!(&code[..2], "22" | "23" | "54") || code == "P0001"
}

/// As a failure that is tried again.
pub(super) fn failure(error: &sqlx::Error) -> Failure {
    Failure::retry(code(error), said(error))
}

/// What the server said, or what kept it from saying anything.
pub(super) fn said(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(said) => said.message().to_string(),
        None => chain(error),
    }
}

fn code(error: &sqlx::Error) -> &'static str {
    let Some(state) = state(error) else {
        return match error {
            sqlx::Error::Tls(_) => "tls",
            _ => "unreachable",
        };
    };
    match (&state[..2], state.as_str()) {
        (_, "25006") => "read-only",
        (_, "53100") => "disk-full",
        ("53", _) => "overloaded",
        ("28", _) => "credentials",
        (_, "3D000") => "no-database",
        (_, "42501") => "not-permitted",
        ("42" | "3F" | "0A", _) => "schema",
        ("40" | "55", _) => "contended",
        ("08" | "57", _) => "unreachable",
        _ => "refused",
    }
}

fn state(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?.into_owned();
    (code.len() == 5 && code.is_ascii()).then_some(code)
}
