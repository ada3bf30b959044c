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
        /// A state version without a path from the old one starts empty instead of being refused.
        #[serde(default)]
        discard_state: bool,
        /// Who.
        by: Actor,
    },
    /// A rule goes back to an earlier version and to the state from before the swap away from it, where a
    /// snapshot of that is kept; to the present state otherwise.
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
