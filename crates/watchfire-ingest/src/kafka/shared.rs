//! What the thread that reads and the answers to librdkafka share: configuration, state, and what statistics say of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use watchfire_telemetry::metrics;

use super::NAME;
use super::options::{KafkaMapping, KafkaOptions};
use crate::board::{Board, State};
use crate::intake::{Intake, Source};

/// How the reason begins where it is our log that takes nothing.
pub(super) const HELD: &str = "the log takes nothing";

/// What the thread and the client's answers share.
pub(super) struct Shared {
    pub(super) options: KafkaOptions,
    pub(super) mappings: Vec<KafkaMapping>,
    pub(super) source: Source,
    pub(super) intake: Arc<Intake>,
    pub(super) runtime: Handle,
    pub(super) board: Board,
    /// What stands beside offsets that we commit.
    pub(super) mark: String,
    pub(super) stop: AtomicBool,
    /// It waits because no broker answers, which passes when one does.
    pub(super) down: AtomicBool,
    /// How often in a row the statistics said that there is nothing to read.
    pub(super) idle: AtomicU32,
}

impl Shared {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn count(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code().map_or_else(|| "other".to_string(), |code| format!("{code:?}"));
        metrics().sources.errors.get_or_create(&[("source", NAME.into()), ("code", code)]).inc();
    }

    /// Adds an offset to a list that is committed, with our mark beside it.
    pub(super) fn mark(&self, list: &mut TopicPartitionList, topic: &str, partition: i32, next: i64) {
        let mut element = list.add_partition(topic, partition);
        if element.set_offset(Offset::Offset(next)).is_ok() {
            element.set_metadata(&self.mark);
        }
    }

    /// What a client is made with. `password`: of the login, where there is one.
    pub(super) fn config(&self, password: Option<&str>) -> ClientConfig {
        let options = &self.options;
        let mut config = ClientConfig::new();
        // A node that comes back within the session goes on with its partitions at once, kill -9 or not; a longer
        // session would keep them from others for longer.
        config
            .set("group.instance.id", self.mark.replace(' ', "-"))
            .set("session.timeout.ms", "10000")
            .set("client.id", "watchfire")
            .set("queued.max.messages.kbytes", "32768")
            // A queue that is full is looked at again after this long; left at a second, a second is what its 32 MiB last.
            .set("fetch.queue.backoff.ms", "10")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("reconnect.backoff.max.ms", "5000")
            .set("log.connection.close", "false");
        for (name, value) in &options.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &options.brokers)
            .set("group.id", &options.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("allow.auto.create.topics", "false")
            // Neither silently from the start nor from the end: we look what is there, and say what is missing.
            .set("auto.offset.reset", "error")
            .set("statistics.interval.ms", "1000");
        let protocol = match (&options.tls, &options.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &options.tls {
            for (name, path) in [
                ("ssl.ca.location", &tls.ca),
                ("ssl.certificate.location", &tls.certificate),
                ("ssl.key.location", &tls.key),
            ] {
                if let Some(path) = path {
                    config.set(name, path.display().to_string());
                }
            }
        }
        if let Some(sasl) = &options.sasl {
            config
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", password.unwrap_or_default());
        }
        config
    }

    /// What librdkafka's statistics say: how far behind we are, and whether a broker answers again.
    pub(super) fn look(&self, statistics: &Statistics) {
        for (topic, of) in &statistics.topics {
            let behind = |(partition, of): (&i32, &rdkafka::statistics::Partition)| {
                let place = self.intake.places().of(NAME, topic, *partition)?;
                // Of a transaction that is open nothing can be read yet.
                let end = if of.ls_offset >= 0 { of.ls_offset } else { of.hi_offset };
                (of.desired && end >= 0).then(|| (end - place.next).max(0))
            };
            let behind: i64 = of.partitions.iter().filter_map(behind).sum();
            metrics()
                .sources
                .lag
                .get_or_create(&[("source", NAME.into()), ("topic", topic.clone())])
                .set(behind);
        }
        let answers = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        let Some(group) = statistics.cgrp.as_ref().filter(|group| answers && group.state == "up") else {
            return;
        };
        let well = match self.board.state() {
            // In the group, if there is nothing for us at present.
            State::Starting => group.join_state == "steady",
            State::Waiting(_) => {
                self.down.load(Ordering::Relaxed) || group.assignment_size > 0 && !self.held()
            }
            State::Running | State::Stopped(_) => false,
        };
        if well {
            self.running();
        }
        // A pattern that nothing matches is no error to librdkafka: it does not even join the group.
        let idle = self.board.state() == State::Starting && group.join_state == "init";
        if !idle {
            self.idle.store(0, Ordering::Relaxed);
        } else if self.idle.fetch_add(1, Ordering::Relaxed) >= 2 {
            self.board.set(State::Waiting("the cluster has none of the topics".into()));
        }
    }

    pub(super) fn held(&self) -> bool {
        matches!(self.board.state(), State::Waiting(reason) if reason.starts_with(HELD))
    }

    pub(super) fn running(&self) {
        self.down.store(false, Ordering::Relaxed);
        self.board.set(State::Running);
    }
}
