//! What is said of a run: as text for people, as JSON for programs.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use watchfire_model::{Digest, Duration};

use crate::file::CaseError;

/// What came of all cases of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The name of the module.
    pub module: String,
    /// Its version.
    pub version: String,
    /// What it is known by.
    pub digest: Digest,
    /// In the order in which they were given.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// Whether every case passed.
    pub fn passed(&self) -> bool {
        self.failed() == 0
    }

    /// How many cases did not pass.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.passed).count()
    }
}

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// What it is called.
    pub name: String,
    /// The file that it was read from.
    pub file: String,
    /// Whether everything was as expected, in every mode.
    pub passed: bool,
    /// How long it took on the simulated clock.
    pub simulated: Duration,
    /// How long it took to play it, in all modes.
    pub took: Duration,
    /// Where it was not.
    pub differences: Vec<Difference>,
    /// How many further differences there are.
    pub more: usize,
    /// What the rule logged when it was played whole; the first hundred messages.
    pub log: Vec<LogLine>,
}

impl CaseReport {
    /// What stands for a file that is no case, so that it is told in every form in which the others are.
    pub fn unreadable(fault: &CaseError) -> Self {
        let said = Some(fault.to_string());
        Self {
            name: Path::new(&fault.file).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: fault.file.clone(),
            passed: false,
            simulated: Duration::ZERO,
            took: Duration::ZERO,
            differences: vec![Difference::new(DifferenceKind::Unreadable, Some(fault.line), None, said)],
            more: 0,
            log: Vec::new(),
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In which way.
    pub kind: DifferenceKind,
    /// The line of the file that says what should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What should be; with [`DifferenceKind::Modes`] what happened when it was played whole. `None`: nothing.
    pub expected: Option<String>,
    /// What happened. `None`: nothing.
    pub happened: Option<String>,
    /// Played how; `None`: whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

impl Difference {
    pub(crate) fn new(
        kind: DifferenceKind,
        line: Option<u64>,
        expected: Option<String>,
        happened: Option<String>,
    ) -> Self {
        Self { kind, line, expected, happened, mode: None }
    }

    pub(crate) fn in_mode(mut self, mode: &str) -> Self {
        self.mode = Some(mode.into());
        self
    }
}

/// In which way something is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// An alert is not as in `expect`.
    Expected,
    /// An alert is one of those in `never`.
    Never,
    /// A row of the output stream is not as in `publishes`.
    Published,
    /// The state is not as in `keeps`.
    Kept,
    /// A message is not as in `logs`.
    Logged,
    /// A call failed, or one did not that should have.
    Failed,
    /// The rule does not start, or it starts and should not.
    Refused,
    /// The file is no case.
    Unreadable,
    /// The verdict depends on how the log was cut or on when the instance was replaced.
    Modes,
}

/// A message of the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Since the start of the case.
    pub at: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// What it says.
    pub text: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{case}")?;
        }
        let (all, failed) = (self.cases.len(), self.failed());
        write!(f, "{} {}: {} of {all} cases passed", self.module, self.version, all - failed)
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed {
            return write!(f, "ok      {} ({})", self.name, self.file);
        }
        write!(f, "FAILED  {} ({})", self.name, self.file)?;
        let mut mode = None;
        for difference in &self.differences {
            if difference.kind == DifferenceKind::Modes && mode != difference.mode.as_ref() {
                mode = difference.mode.as_ref();
                let name = mode.map_or("", String::as_str);
                write!(f, "\n  the same log played whole and played {name} must do the same:")?;
            }
            write!(f, "\n{difference}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        for line in &self.log {
            write!(f, "\n  log {}  {}: {}", line.at, line.level, line.text)?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map(|line| format!("  (line {line})")).unwrap_or_default();
        let nothing = "nothing".to_string();
        let expected = self.expected.as_ref().unwrap_or(&nothing);
        let happened = self.happened.as_ref().unwrap_or(&nothing);
        match self.kind {
            DifferenceKind::Failed if self.expected.is_some() => {
                let mode = self.mode.as_deref().unwrap_or("whole");
                write!(f, "  expected   {expected}{line}\n  happened   {happened}, played {mode}")
            }
            DifferenceKind::Failed => {
                let mode = self.mode.as_deref().unwrap_or("whole");
                write!(f, "  a call failed, played {mode}, at {happened}")
            }
            DifferenceKind::Never => {
                write!(f, "  must not happen{line}\n  happened  {happened}")
            }
            DifferenceKind::Modes => {
                let mode = self.mode.as_deref().unwrap_or_default();
                let width = mode.len().max("whole".len());
                write!(f, "    {:width$}  {expected}\n    {mode:width$}  {happened}", "whole")
            }
            DifferenceKind::Unreadable => write!(f, "  {happened}"),
            DifferenceKind::Refused if self.expected.is_none() => write!(f, "  {happened}"),
            DifferenceKind::Expected
            | DifferenceKind::Published
            | DifferenceKind::Kept
            | DifferenceKind::Logged
            | DifferenceKind::Refused => {
                let what = match self.kind {
                    DifferenceKind::Published => "published",
                    DifferenceKind::Kept => "kept",
                    DifferenceKind::Logged => "logged",
                    _ => "happened",
                };
                write!(f, "  expected   {expected}{line}\n  {what:9}  {happened}")
            }
        }
    }
}
