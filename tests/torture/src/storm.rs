//! What is done to the engine while devices send.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::engine::{Api, Engine, threshold};
use crate::evidence::Change;
use crate::receiver::Receiver;

/// Limits of the rule that comes and goes: different loads of a device are beyond each.
const LIMITS: [f64; 5] = [50.0, 55.0, 60.0, 64.0, 70.0];

/// What was done.
#[derive(Default)]
pub struct Storm {
    /// Times the engine was killed.
    pub kills: u32,
    /// Of these, before it was ready.
    pub early: u32,
    /// Times it was asked to end, and did.
    pub ends: u32,
    /// Changes that were said to be durable.
    pub changes: Vec<Change>,
    /// How long each start took.
    pub starts: Vec<Duration>,
}

/// What came of a change that was asked for.
pub enum Answer {
    /// It is durable.
    Made(Change),
    /// There was nothing to do.
    Nothing,
    /// The engine is gone, and nobody knows.
    None,
}

impl Answer {
    /// The change, where nothing stood in its way.
    pub fn made(self) -> Result<Change> {
        match self {
            Self::Made(change) => Ok(change),
            Self::Nothing => bail!("there was nothing to change"),
            Self::None => bail!("a change was not answered"),
        }
    }
}

/// Deploys the rule that comes and goes, or (`None`) rolls it back.
pub async fn change(api: &Api, high: Option<f64>) -> Result<Answer> {
    let asked = match high {
        Some(high) => api.ask("PUT", "/rules/churn?wait=true", Some(threshold("load", high))).await,
        None => api.ask("POST", "/rules/churn/rollback?wait=true", None).await,
    };
    let Ok((status, answer)) = asked else { return Ok(Answer::None) };
    match status {
        200 | 201 if answer["state"] == "unchanged" => Ok(Answer::Nothing),
        200 | 201 => {
            let positions = answer["activated_at"].as_array().into_iter().flatten();
            Ok(Answer::Made(Change {
                version: answer["version"].as_u64().unwrap_or_default(),
                positions: positions.map(|position| position.as_str().unwrap_or_default().into()).collect(),
                high,
            }))
        }
        // There is no earlier version.
        409 => Ok(Answer::Nothing),
        // It is about to end.
        503 => Ok(Answer::None),
        _ => bail!("a change of a rule was answered with {status}: {answer}"),
    }
}

impl Storm {
    /// Kills and starts the engine until time is up. It runs before and after.
    pub async fn rage(
        &mut self,
        engine: &mut Engine,
        receiver: &Receiver,
        random: &mut StdRng,
        time: Duration,
    ) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            // Changes one after the other, the last one cut off by what follows, or just not.
            let steps = (0..random.random_range(0..5)).map(|_| {
                let high = LIMITS[random.random_range(0..LIMITS.len())];
                let pause = Duration::from_millis(random.random_range(0..300));
                (pause, random.random_ratio(2, 3).then_some(high))
            });
            let changing = tokio::spawn(changes(engine.api.clone(), steps.collect()));
            tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
            match random.random_range(0..8) {
                0 => {
                    if !engine.terminate(Duration::from_secs(30)).await? {
                        bail!("the engine did not end on SIGTERM");
                    }
                    self.ends += 1;
                }
                1 => {
                    // Killed while it takes itself down, if it has not ended by then.
                    let patience = Duration::from_millis(random.random_range(0..150));
                    match engine.terminate(patience).await? {
                        true => self.ends += 1,
                        false => self.kills += 1,
                    }
                }
                _ => {
                    engine.kill()?;
                    self.kills += 1;
                }
            }
            receiver.cut().await?;
            self.changes.extend(changing.await??);
            if random.random_ratio(1, 4) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
            }
            while random.random_ratio(1, 4) {
                engine.launch()?;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                engine.kill()?;
                receiver.cut().await?;
                self.kills += 1;
                self.early += 1;
            }
            self.starts.push(engine.start().await?);
        }
        Ok(())
    }
}

/// Changes, each after a pause, until one has no answer.
async fn changes(api: Api, steps: Vec<(Duration, Option<f64>)>) -> Result<Vec<Change>> {
    let mut made = Vec::new();
    for (pause, high) in steps {
        tokio::time::sleep(pause).await;
        match change(&api, high).await? {
            Answer::Made(change) => made.push(change),
            Answer::Nothing => {}
            Answer::None => break,
        }
    }
    Ok(made)
}

/// What a list of alerts and deliveries says at the end: everything came to its end.
pub fn at_rest(alerts: &[crate::evidence::Alert], deliveries: &[(String, String)]) -> bool {
    alerts.iter().all(|alert| alert.resolved.is_some())
        && deliveries.iter().all(|(_, state)| state == "delivered")
        // Each alert is told of twice, in messages of its own: no group holds two.
        && deliveries.len() == 2 * alerts.len()
}
