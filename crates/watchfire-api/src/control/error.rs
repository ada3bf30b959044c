//! Why a command was not carried out.

use watchfire_log::AppendError;

use crate::contract::ParameterFault;
use crate::problem::Problem;

/// Why a command was not carried out. Nothing of it happened.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// It says something that cannot be.
    #[error("{detail}")]
    Invalid {
        /// A stable code.
        code: &'static str,
        /// The member of the request that is at fault, as a JSON pointer.
        pointer: String,
        /// What is wrong.
        detail: String,
    },
    /// The schema of the module has something against the parameters.
    #[error("the parameters do not fit the module: {}", first(.0))]
    Parameters(Vec<ParameterFault>),
    /// There is no such thing.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// The noun.
        kind: &'static str,
        /// What was named.
        name: String,
    },
    /// The present state does not allow it.
    #[error("{detail}")]
    Conflict {
        /// A stable code.
        code: &'static str,
        /// What stands against it.
        detail: String,
    },
    /// What the rule keeps cannot be migrated.
    #[error("{detail}")]
    Migration {
        /// Where, and what was said.
        detail: String,
        /// The device whose state is at fault, where one is.
        device: Option<String>,
        /// The slot of it.
        slot: Option<u32>,
        /// The partition.
        partition: u16,
    },
    /// The loop has to be asked for it, and does not answer now.
    #[error("{0}")]
    Busy(String),
    /// The log did not take it.
    #[error("the change was not logged")]
    Log(#[from] AppendError),
}

fn first(faults: &[ParameterFault]) -> String {
    faults.first().map_or_else(String::new, |fault| format!("{} {}", fault.pointer, fault.detail))
}

impl ControlError {
    pub(super) fn invalid(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { code, pointer: pointer.into(), detail: detail.into() }
    }

    pub(super) fn not_found(kind: &'static str, name: &str) -> Self {
        Self::NotFound { kind, name: name.to_string() }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let detail = error.to_string();
        match error {
            ControlError::Invalid { code, pointer, .. } => {
                Self::refused(code, detail).with("pointer", pointer)
            }
            ControlError::Parameters(faults) => {
                Self::refused("parameters", detail).with("errors", serde_json::json!(faults))
            }
            ControlError::NotFound { kind, name } => Self::not_found(kind, &name),
            ControlError::Conflict { code, .. } => Self::conflict(code, detail),
            ControlError::Migration { device, slot, partition, .. } => {
                let problem = Self::conflict("state-migration", detail).with("partition", partition);
                let problem = slot.into_iter().fold(problem, |problem, slot| problem.with("slot", slot));
                device.into_iter().fold(problem, |problem, device| problem.with("device", device))
            }
            ControlError::Busy(_) => Self::unavailable("engine-busy", detail),
            ControlError::Log(error) => {
                tracing::warn!(error = watchfire_model::chain(&error), "a command was not logged");
                match error {
                    AppendError::Full => Self::unavailable("log-full", "the queue before the disk is full"),
                    AppendError::DiskFull => Self::unavailable("disk-full", "the disk is full"),
                    AppendError::ClockStep(_) => Self::unavailable(
                        "clock-step",
                        "the clock jumped forward; nothing is logged until it is trusted again",
                    ),
                    AppendError::WriteFailed(_) => {
                        Self::unavailable("write-failed", "the log could not be written")
                    }
                    AppendError::Closed => Self::unavailable("closed", "the engine is stopping"),
                }
            }
        }
    }
}
