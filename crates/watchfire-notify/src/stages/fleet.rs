//! What the fleet consists of, for the question what devices that alert have in common that others do not.

use std::collections::HashMap;

use watchfire_model::DeviceSpec;

/// A label and its value.
pub type Trait = (String, String);

/// How many devices there are, by each label: built from the registry now and then, not at each decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// All devices.
    pub devices: u64,
    /// Devices with a label of that value; `type` and `site` count as labels.
    pub with: HashMap<Trait, u64>,
}

impl Fleet {
    /// Takes a device in.
    pub fn add(&mut self, device: &DeviceSpec) {
        self.devices += 1;
        for (name, value) in
            device.labels.iter().filter(|(name, _)| !["type", "site"].contains(&name.as_str()))
        {
            *self.with.entry((name.clone(), value.clone())).or_default() += 1;
        }
        for (name, value) in [("type", &device.kind), ("site", &device.site)] {
            if !value.is_empty() {
                *self.with.entry((name.into(), value.clone())).or_default() += 1;
            }
        }
    }

    /// How many devices have it.
    pub fn count(&self, name: &str, value: &str) -> u64 {
        self.with.get(&(name.to_string(), value.to_string())).copied().unwrap_or(0)
    }
}

/// What most of those that alert have, and others seldom.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// The label.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The share of it among those that alert, 0 to 1.
    pub share: f64,
    /// The share of it in the fleet, 0 to 1.
    pub fleet_share: f64,
}

/// At least so many of those that alert have it.
const COMMON: f64 = 0.8;
/// And in the fleet it is at most half as frequent: what everybody has explains nothing.
const RARER: f64 = 0.5;

impl Fleet {
    /// The label by which those that alert differ most from the fleet. `with`: how many of the `alerting` devices have
    /// each label. Labels that are true of the whole question (`given`, such as the site that is looked at) explain
    /// nothing and are left out.
    pub fn common<'a>(
        &self,
        alerting: u64,
        with: impl IntoIterator<Item = (&'a Trait, u64)>,
        given: &str,
    ) -> Option<Factor> {
        if alerting == 0 || self.devices == 0 {
            return None;
        }
        let mut best: Option<Factor> = None;
        for ((name, value), count) in with {
            let share = count as f64 / alerting as f64;
            let fleet_share = self.count(name, value) as f64 / self.devices as f64;
            if name == given || share < COMMON || fleet_share > share * RARER {
                continue;
            }
            let factor = Factor { name: name.clone(), value: value.clone(), share, fleet_share };
            let better = |than: &Factor| {
                let (one, other) = (share - fleet_share, than.share - than.fleet_share);
                // Which of two that say as much is told must not depend on the order of a table.
                one > other || (one == other && (name, value) < (&than.name, &than.value))
            };
            if best.as_ref().is_none_or(better) {
                best = Some(factor);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for i in 0..100 {
            let firmware = if i < 12 { "2.3.1" } else { "2.2.0" };
            fleet.add(&DeviceSpec {
                id: format!("press-{i}"),
                kind: "press".into(),
                site: if i % 2 == 0 { "lyon" } else { "oslo" }.into(),
                labels: [("firmware".to_string(), firmware.to_string()), ("type".into(), "other".into())]
                    .into(),
                ..DeviceSpec::default()
            });
        }
        fleet
    }

    fn check(alerting: u64, with: &[(&str, &str, u64)], expected: Option<(&str, &str)>) {
        let with: Vec<(Trait, u64)> =
            with.iter().map(|(name, value, count)| ((name.to_string(), value.to_string()), *count)).collect();
        let found = fleet().common(alerting, with.iter().map(|(one, count)| (one, *count)), "site");
        assert_eq!(found.as_ref().map(|found| (found.name.as_str(), found.value.as_str())), expected);
    }

    #[test]
    fn what_is_common_is_frequent_here_and_rare_elsewhere() {
        assert_eq!((fleet().count("type", "press"), fleet().count("site", "oslo")), (100, 50));
        check(10, &[("firmware", "2.3.1", 10), ("type", "press", 10)], Some(("firmware", "2.3.1")));
        check(10, &[("firmware", "2.3.1", 7)], None);
        // Everybody has it, or it is what was asked for.
        check(10, &[("type", "press", 10), ("site", "oslo", 10)], None);
        check(10, &[("b", "1", 9), ("a", "1", 9)], Some(("a", "1")));
        check(0, &[("a", "1", 9)], None);
    }
}
