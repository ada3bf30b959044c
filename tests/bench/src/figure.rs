//! Figures, and how they are taken.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// One measured figure beside its reference.
#[derive(Serialize)]
pub struct Figure {
    /// The bench that it belongs to.
    pub bench: &'static str,
    /// What was measured.
    pub figure: String,
    /// Of value and reference.
    pub unit: &'static str,
    /// What was measured.
    pub value: f64,
    /// The reference of the same run; `None`: there is none.
    pub reference: Option<f64>,
    /// Value by reference.
    pub ratio: Option<f64>,
    /// In words.
    pub goal: &'static str,
    /// Whether the goal is met; `None`: there is none.
    pub met: Option<bool>,
}

impl Figure {
    /// A figure beside its reference; `met` judges (value, ratio).
    pub fn against(
        bench: &'static str,
        figure: impl Into<String>,
        unit: &'static str,
        (value, reference): (f64, f64),
        goal: &'static str,
        met: impl FnOnce(f64, f64) -> Option<bool>,
    ) -> Self {
        let ratio = value / reference;
        let met = met(value, ratio);
        Self {
            bench,
            figure: figure.into(),
            unit,
            value,
            reference: Some(reference),
            ratio: Some(ratio),
            goal,
            met,
        }
    }
}

/// CPU seconds of this process so far, all threads.
pub fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Runs two pieces of work in turn, after one round that does not count, and gives the median of each: what
/// disturbs one round disturbs both sides of it.
pub fn alternate(
    rounds: usize,
    mut value: impl FnMut() -> f64,
    mut reference: impl FnMut() -> f64,
) -> (f64, f64) {
    let (mut values, mut references) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let pair = (value(), reference());
        if round > 0 {
            values.push(pair.0);
            references.push(pair.1);
        }
    }
    (median(&mut values), median(&mut references))
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A table for people.
pub fn print(figures: &[Figure]) {
    println!("| bench | figure | value | reference | ratio | goal | met |\n|---|---|---|---|---|---|---|");
    for f in figures {
        let number = |x: Option<f64>| {
            x.map_or("-".into(), |x| if x >= 1000.0 { format!("{x:.0}") } else { format!("{x:.3}") })
        };
        let met = f.met.map_or("-", |met| if met { "yes" } else { "no" });
        println!(
            "| {} | {} | {} {} | {} | {} | {} | {met} |",
            f.bench,
            f.figure,
            number(Some(f.value)),
            f.unit,
            number(f.reference),
            number(f.ratio),
            f.goal
        );
    }
}
