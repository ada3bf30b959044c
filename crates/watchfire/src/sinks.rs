//! The sinks of the configuration: started, watched, and asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watchfire_api::contract::{
    BoxFuture, History, HistoryFailure, HistoryPoint, HistoryQuery, SinkInfo, SinkLane, Sinks,
};
use watchfire_log::Clock;
use watchfire_model::{Severity, Timestamp};
use watchfire_notify::{Notice, NoticeKind, Notifier};
use watchfire_sink::timescale::{self, HistoryError};
use watchfire_sink::{LaneState, Running, SinkStatus, Surroundings, http, kafka, mqtt};

use crate::config::SinkConfig;

/// How often the gauges of sinks are brought up to date, and it is looked whether somebody has to be told.
const LOOK: Duration = Duration::from_secs(2);

/// Questions about the past that are answered at the same time.
const HISTORY: u32 = 4;

/// What is told of a sink that gets nothing through.
const KIND: NoticeKind = NoticeKind {
    name: "watchfire-sink",
    label: "sink",
    over: "writes again what comes",
    severity: Severity::Major,
};

/// What is told of a part of the log that a sink will never get.
const LOSS: NoticeKind = NoticeKind {
    name: "watchfire-sink-gap",
    label: "sink",
    over: "was started anew; the gap is noted where it writes",
    severity: Severity::Major,
};

/// The running sinks.
pub struct RunningSinks {
    sinks: Vec<(Running, watchfire_model::Duration)>,
    history: Option<timescale::History>,
    stop: CancellationToken,
}

impl RunningSinks {
    /// Starts what is configured. A service that cannot be reached is no error: it is tried again.
    pub async fn start(config: &SinkConfig, surroundings: Surroundings) -> Result<Self> {
        let stop = CancellationToken::new();
        let (mut sinks, mut history) = (Vec::new(), None);
        if let Some(section) = &config.timescale {
            let running = timescale::start(section.clone(), surroundings.clone(), stop.clone()).await;
            sinks.push((running.context("[sink.timescale]")?, section.alert_after));
            history = Some(
                timescale::History::new(Arc::new(section.clone()), HISTORY).context("[sink.timescale]")?,
            );
        }
        if let Some(section) = &config.http {
            let running = http::start(section.clone(), surroundings.clone()).await;
            sinks.push((running.context("[sink.http]")?, section.alert_after));
        }
        if let Some(section) = &config.mqtt {
            let running = mqtt::start(section.clone(), surroundings.clone()).await;
            sinks.push((running.context("[sink.mqtt]")?, section.alert_after));
        }
        if let Some(section) = &config.kafka {
            let running = kafka::start(section.clone(), surroundings).await;
            sinks.push((running.context("[sink.kafka]")?, section.alert_after));
        }
        Ok(Self { sinks, history, stop })
    }

    /// Keeps the gauges fresh and tells of sinks that are down for long.
    pub fn watch(self: &Arc<Self>, notifier: Arc<Notifier>, clock: Arc<dyn Clock>) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = this.stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => this.look(&notifier, clock.wall()),
                }
            }
        })
    }

    fn look(&self, notifier: &Notifier, now: Timestamp) {
        let (mut down, mut lost) = (Vec::new(), Vec::new());
        // A sink of which nothing is known yet may have been told of in the life before: it is not over.
        let mut known = !self.sinks.is_empty();
        for (sink, patience) in &self.sinks {
            let status = sink.status();
            known &= status.lanes.iter().all(|lane| lane.state != LaneState::Starting);
            let first = status
                .lanes
                .iter()
                .filter_map(|lane| Some((lane.since?, lane)))
                .min_by_key(|(since, _)| *since);
            if let Some((since, lane)) = first {
                if since + *patience > now {
                    // Nor is it over where it has been down since before we started.
                    known = false;
                    continue;
                }
                let reason = lane.reason.as_deref().unwrap_or_default();
                let text =
                    format!("the sink {} has got nothing through since {since}: {reason}", status.name);
                down.push(Notice { about: status.name.clone(), since, text });
            }
            if let Some(since) = status.lanes.iter().filter_map(|lane| lane.lost_at).min() {
                let text = format!(
                    "the sink {} will never get a part of the log: it was away for longer than that was kept",
                    status.name
                );
                lost.push(Notice { about: status.name, since, text });
            }
        }
        if known {
            notifier.set_notices(KIND, down);
            notifier.set_notices(LOSS, lost);
        }
    }

    /// Ends them. What they did not write yet, they do from the next start on.
    pub async fn stop(self: Arc<Self>) {
        self.stop.cancel();
        for (sink, _) in &self.sinks {
            sink.stop().await;
        }
    }
}

impl Sinks for RunningSinks {
    fn list(&self) -> Vec<SinkInfo> {
        self.sinks.iter().map(|(sink, _)| info(sink.status())).collect()
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<History, HistoryFailure>> {
        Box::pin(async move {
            let history = self.history.as_ref().ok_or(HistoryFailure::Nowhere)?;
            let HistoryQuery { device, metric, stream, from, to, step } = query;
            let asked = timescale::HistoryQuery { device, metric, from, to, step, stream };
            let (points, source) = history.query(&asked).await.map_err(|error| match error {
                HistoryError::Refused(detail) => HistoryFailure::Refused(detail),
                HistoryError::Unavailable(detail) => HistoryFailure::Unavailable(detail),
            })?;
            let point = |point: timescale::HistoryPoint| {
                let timescale::HistoryPoint { time, min, max, avg, count, last } = point;
                HistoryPoint { time, min, max, avg, count, last }
            };
            Ok(History { source, points: points.into_iter().map(point).collect() })
        })
    }
}

fn info(status: SinkStatus) -> SinkInfo {
    let worst = |lane: &watchfire_sink::LaneStatus| match lane.state {
        LaneState::Running => 0,
        LaneState::CatchingUp => 1,
        LaneState::Starting => 2,
        LaneState::Stopped => 3,
        LaneState::Retrying => 4,
    };
    let lanes = &status.lanes;
    let state = lanes.iter().max_by_key(|lane| worst(lane)).map(|lane| lane.state).unwrap_or_default();
    SinkInfo {
        name: status.name,
        state: state.to_string(),
        in_force: status.in_force,
        streams: status.streams,
        behind: lanes.iter().map(|lane| lane.behind).sum(),
        rows: lanes.iter().map(|lane| lane.rows).sum(),
        refused: lanes.iter().map(|lane| lane.refused).sum(),
        reason: lanes.iter().find_map(|lane| lane.reason.clone()),
        lanes: status
            .lanes
            .into_iter()
            .map(|lane| SinkLane {
                lane: lane.lane,
                state: lane.state.to_string(),
                next: lane.next,
                behind: lane.behind,
                rows: lane.rows,
                refused: lane.refused,
                gaps: lane.gaps,
                code: lane.code,
                reason: lane.reason,
                since: lane.since,
            })
            .collect(),
    }
}
