//! Results as JUnit XML, in the form that continuous integration reads: a suite for the project, a test for each case.

use std::fmt::Write as _;

use watchfire_model::Duration;
use watchfire_scenario::{CaseReport, Report};

/// The document.
pub fn document(report: &Report, project: &str) -> String {
    let took = Duration(report.cases.iter().map(|case| case.took.0).sum());
    let (all, failed, time) = (report.cases.len(), report.failed(), seconds(took));
    let name = escaped(project);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"{name}\" tests=\"{all}\" failures=\"{failed}\" time=\"{time}\">\n\
         \x20 <testsuite name=\"{name}\" tests=\"{all}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\" time=\"{time}\">\n\
         \x20   <properties>\n"
    );
    for (name, value) in [
        ("module", report.module.clone()),
        ("version", report.version.clone()),
        ("digest", report.digest.to_string()),
    ] {
        // Writing to a String does not fail, here and below.
        let _ = writeln!(text, "      <property name=\"{name}\" value=\"{}\"/>", escaped(&value));
    }
    text.push_str("    </properties>\n");
    report.cases.iter().for_each(|case| test(&mut text, case, &name));
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

fn test(text: &mut String, case: &CaseReport, suite: &str) {
    let (name, file, time) = (escaped(&case.name), escaped(&case.file), seconds(case.took));
    let _ =
        write!(text, "    <testcase name=\"{name}\" classname=\"{suite}\" file=\"{file}\" time=\"{time}\"");
    if case.passed && case.log.is_empty() {
        text.push_str("/>\n");
        return;
    }
    text.push_str(">\n");
    if !case.passed {
        let count = case.differences.len() + case.more;
        let first = case.differences.first().map(ToString::to_string).unwrap_or_default();
        let counted = if count == 1 { "1 difference".into() } else { format!("{count} differences") };
        let message = format!("{counted}: {}", first.split_whitespace().collect::<Vec<_>>().join(" "));
        let _ = writeln!(
            text,
            "      <failure type=\"difference\" message=\"{}\">{}</failure>",
            escaped(&message),
            escaped(&case.to_string())
        );
    }
    if !case.log.is_empty() {
        let lines: Vec<String> =
            case.log.iter().map(|line| format!("{}  {}: {}", line.at, line.level, line.text)).collect();
        let _ = writeln!(text, "      <system-out>{}</system-out>", escaped(&lines.join("\n")));
    }
    text.push_str("    </testcase>\n");
}

fn seconds(span: Duration) -> String {
    format!("{:.6}", span.as_secs_f64())
}

/// For text and attributes alike. What XML 1.0 cannot have at all (section 2.2) becomes a replacement character.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => out.push(character),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_rule_says_breaks_the_document() {
        assert_eq!(escaped("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;");
        assert_eq!(escaped("]]>\u{1b}[31m\0\u{ffff}ü\n"), "]]&gt;\u{fffd}[31m\u{fffd}\u{fffd}ü\n");
    }
}
