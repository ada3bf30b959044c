//! The tree as people look at it: all of it, or the way of one alert through it.

use serde::Serialize;
use watchfire_store::LabelSet;

use super::{GroupBy, Route, Router, Target, Timers, targets};
use crate::stages::interval::Times;

/// A route, with what it has from its parents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Where it stands in the configuration: `route.routes[0]`.
    pub place: String,
    /// How many routes stand above it.
    pub depth: usize,
    /// What it matches, as Alertmanager writes it; `{}`: everything.
    pub matchers: String,
    /// Who is told.
    pub receivers: Vec<String>,
    /// Labels whose values make a group; `["..."]`: all.
    pub group_by: Vec<String>,
    /// When.
    pub timers: Timers,
    /// Within which times of day and year.
    pub times: Times,
    /// The routes after it are tried even where it matches.
    pub r#continue: bool,
}

/// A route that takes an alert: the way there, and who is told of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// From the root to the route that takes it.
    pub path: Vec<Step>,
    /// One for each receiver of that route.
    pub targets: Vec<Target>,
}

impl Router {
    /// All routes, each before those below it.
    pub fn outline(&self) -> Vec<Step> {
        fn add(route: &Route, depth: usize, steps: &mut Vec<Step>) {
            steps.push(step(route, depth));
            for child in &route.routes {
                add(child, depth + 1, steps);
            }
        }
        let mut steps = Vec::new();
        add(&self.root, 0, &mut steps);
        steps
    }

    /// The routes that take an alert with these labels, in the order in which they do: what
    /// [`Router::route`] decides, and how it came to that.
    pub fn explain(&self, labels: &LabelSet) -> Vec<Explained> {
        let mut found = Vec::new();
        super::walk(&self.root, labels, &mut found);
        let explained = found.into_iter().map(|route| Explained {
            path: self
                .way_to(route)
                .into_iter()
                .enumerate()
                .map(|(depth, above)| step(above, depth))
                .collect(),
            targets: targets(route, labels).collect(),
        });
        explained.collect()
    }

    /// The routes from the root to this one.
    fn way_to(&self, route: &Route) -> Vec<&Route> {
        let mut way = vec![&self.root];
        // The place of a route begins with the places of those above it.
        let below = |above: &Route| {
            route
                .place
                .strip_prefix(&above.place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        while let Some(next) = way.last().and_then(|last| last.routes.iter().find(|child| below(child))) {
            way.push(next);
        }
        way
    }
}

fn step(route: &Route, depth: usize) -> Step {
    Step {
        place: route.place.clone(),
        depth,
        matchers: route.matchers.to_string(),
        receivers: route.receivers.clone(),
        group_by: match &route.group_by {
            GroupBy::All => vec!["...".into()],
            GroupBy::Labels(names) => names.clone(),
        },
        timers: route.timers,
        times: route.times.clone(),
        r#continue: route.goes_on,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::router;
    use super::*;

    #[test]
    fn the_way_of_an_alert() {
        let labels = [("severity", "critical"), ("site", "oslo")];
        let labels = labels.map(|(name, value)| (name.to_string(), value.to_string())).into();
        let explained = router().explain(&labels);
        let ways: Vec<Vec<&str>> =
            explained.iter().map(|one| one.path.iter().map(|step| step.place.as_str()).collect()).collect();
        let night = ["route", "route.routes[1]", "route.routes[1].routes[0]"];
        assert_eq!(ways, [&["route", "route.routes[0]"][..], &night[..]]);
        let targets: Vec<Target> = explained.into_iter().flat_map(|one| one.targets).collect();
        assert_eq!(targets, router().route(&labels));
    }

    #[test]
    fn the_tree() {
        let outline = router().outline();
        let shown: Vec<String> = outline
            .iter()
            .map(|step| format!("{} {} {} {:?}", step.depth, step.place, step.matchers, step.receivers))
            .collect();
        assert_eq!(
            shown,
            [
                "0 route {} [\"all\"]",
                "1 route.routes[0] {severity=~\"major|critical\"} [\"log\"]",
                "1 route.routes[1] {severity=\"critical\"} [\"night\"]",
                "2 route.routes[1].routes[0] {site=\"oslo\"} [\"night\"]",
                "1 route.routes[2] {key=\"both\"} [\"night\", \"log\"]",
                "1 route.routes[3] {key=\"none\"} []",
                "2 route.routes[3].routes[0] {site=\"oslo\"} []",
            ]
        );
        assert!(outline[1].r#continue && outline[1].group_by == ["..."]);
        assert_eq!(outline[3].times, Times::default());
    }
}
