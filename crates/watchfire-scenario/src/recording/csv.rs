//! Tables as text: RFC 4180, with lines that end in a line feed alone as well.

use serde_json::{Value, json};

/// The rows, each with the line that it begins at. Empty lines are passed.
pub(super) fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
    let (mut rows, mut cells, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begin, mut quoted) = (1, 1, false);
    let mut characters = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(character) = characters.next() {
        line += usize::from(character == '\n');
        match character {
            // Within quotes a quote is written twice.
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                finish(&mut rows, begin, &mut cells, &mut cell);
                begin = line;
            }
            other => cell.push(other),
        }
    }
    finish(&mut rows, begin, &mut cells, &mut cell);
    rows
}

fn finish(rows: &mut Vec<(usize, Vec<String>)>, begin: usize, cells: &mut Vec<String>, cell: &mut String) {
    cells.push(std::mem::take(cell));
    let row = std::mem::take(cells);
    if row.iter().any(|cell| !cell.is_empty()) {
        rows.push((begin, row));
    }
}

/// What a cell means: a number, `true` or `false`, or a text.
pub(super) fn value(cell: &str) -> Value {
    match cell.trim() {
        "true" => json!(true),
        "false" => json!(false),
        text => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => json!(number),
            _ => json!(cell),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_be_quoted() {
        let text = "a,\"b \"\"x\"\"\",c\r\n\n1,\"two\nlines\",\n3,4,5";
        let expected = [(1, ["a", "b \"x\"", "c"]), (3, ["1", "two\nlines", ""]), (5, ["3", "4", "5"])];
        let found = rows(text);
        assert_eq!(found.len(), 3);
        for ((line, cells), (expected_line, expected_cells)) in found.iter().zip(expected) {
            assert_eq!((*line, cells.as_slice()), (expected_line, &expected_cells.map(String::from)[..]));
        }
    }

    #[test]
    fn cells_are_numbers_flags_and_texts() {
        for (cell, expected) in
            [("1.5", json!(1.5)), (" true", json!(true)), ("NaN", json!("NaN")), ("on", json!("on"))]
        {
            assert_eq!(value(cell), expected);
        }
    }
}
