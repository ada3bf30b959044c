//! Control records: the only writes to the registry and to rules, and what operators do to conditions.
//! They stand in the log, so each partition sees them at one place between two batches.

use serde::{Deserialize, Serialize};

use crate::device::DeviceSpec;
use crate::id::RuleVersion;
use crate::rule::RuleSpec;

/// Who did it, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The name of the token, or of the part of the engine that acted by itself.
    pub name: String,
    /// What was given as the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// The state that a rule goes on with when it goes back to an earlier version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackState {
    /// That from when the version was left, where it is kept; the present one otherwise.
    #[default]
    KeptOrPresent,
    /// That from when the version was left. A partition that does not keep it refuses.
    Kept,
    /// The present one, migrated where the version reads another layout.
    Present,
    /// None.
    Empty,
}

/// A change that every partition makes at the same place in its log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// Registers devices or changes what is known of them. Each partition takes those that it owns.
    DevicesPut {
        /// The devices.
        devices: Vec<DeviceSpec>,
        /// Who.
        by: Actor,
    },
    /// Deletes a device, its state, timers and alerts.
    DeviceDeleted {
        /// Its id.
        id: String,
        /// Who.
        by: Actor,
    },
    /// A rule begins, or goes on with another module, selector or parameters.
    RuleDeployed {
        /// What is deployed.
        spec: Box<RuleSpec>,
        /// From 1, one up each time.
        version: RuleVersion,
        /// What the rule keeps is dropped: it begins without state.
        #[serde(default)]
        discard_state: bool,
        /// Who.
        by: Actor,
    },
    /// A rule goes back to an earlier version, and to the state that was kept when that was left, or another.
    RuleRolledBack {
        /// The rule.
        name: String,
        /// The version that is left.
        from: RuleVersion,
        /// The earlier version whose specification comes back.
        to: RuleVersion,
        /// The number of the new version; 0 where `from` was refused by a partition and never counted.
        version: RuleVersion,
        /// The specification of `to`; `None`: there is none, the rule did not exist before.
        spec: Option<Box<RuleSpec>>,
        /// What the rule goes on with.
        #[serde(default)]
        state: RollbackState,
        /// Who.
        by: Actor,
    },
    /// A rule gets no callback until it is resumed; what comes meanwhile it never sees.
    RulePaused {
        /// The rule.
        name: String,
        /// Who.
        by: Actor,
    },
    /// A paused rule goes on from here.
    RuleResumed {
        /// The rule.
        name: String,
        /// Who.
        by: Actor,
    },
    /// A rule ends: its alerts are resolved, its timers and state are gone.
    RuleRemoved {
        /// The rule.
        name: String,
        /// Who.
        by: Actor,
    },
    /// What a rule missed while its breaker was open is evaluated once that closes, whatever its deployment says of
    /// it; and it is tried again with the next rows.
    RuleCatchUp {
        /// The rule.
        name: String,
        /// Who.
        by: Actor,
    },
    /// What a rule has missed up to here because its breaker was open is not evaluated any more.
    RuleMissedSkipped {
        /// The rule.
        name: String,
        /// Who.
        by: Actor,
    },
    /// An operator resets a latched alert, or clears one by force.
    ConditionCleared {
        /// The rule.
        rule: String,
        /// The id of the device.
        device: String,
        /// The key.
        key: String,
        /// Also where the condition stands: it may trigger again at once.
        force: bool,
        /// Who.
        by: Actor,
    },
}

impl Control {
    /// Who did it.
    pub fn by(&self) -> &Actor {
        match self {
            Self::DevicesPut { by, .. }
            | Self::DeviceDeleted { by, .. }
            | Self::RuleDeployed { by, .. }
            | Self::RuleRolledBack { by, .. }
            | Self::RulePaused { by, .. }
            | Self::RuleResumed { by, .. }
            | Self::RuleRemoved { by, .. }
            | Self::RuleCatchUp { by, .. }
            | Self::RuleMissedSkipped { by, .. }
            | Self::ConditionCleared { by, .. } => by,
        }
    }
}
