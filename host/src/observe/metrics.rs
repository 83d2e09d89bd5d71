//! What the host counts, for Prometheus.

use crate::{instance::Engine, session};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc};

/// All figures of a host.
#[derive(Debug)]
pub(crate) struct Metrics(Registry);

impl Metrics {
    pub(crate) fn new(sessions: Arc<session::Registry>, engine: Engine) -> Self {
        let mut registry = Registry::with_prefix("carrel");
        registry.register_collector(Box::new(Figures { sessions, engine }));
        Self(registry)
    }

    /// The figures, in the text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.0);
        text
    }
}

/// What is known elsewhere and looked at when it is asked for.
struct Figures {
    sessions: Arc<session::Registry>,
    engine: Engine,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sessions = &self.sessions;
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: usize| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)
        };
        gauge("sessions_live", "Sessions with instances", None, sessions.live())?;
        gauge("sessions_parked", "Sessions with snapshots only", None, sessions.parked())?;
        gauge("calls_in_progress", "Calls that wait or run", None, sessions.in_use())?;
        gauge("linear_memories", "Linear memories of all instances", None, self.engine.memories().in_use())?;
        gauge("stacks", "Fiber stacks of all instances", None, self.engine.stacks().in_use())?;
        let (used, limit) = sessions.memory();
        gauge(
            "memory",
            "Memory that instances and snapshots take, as limits.memory counts it",
            Some(Unit::Bytes),
            used,
        )?;
        gauge("memory_limit", "What limits.memory allows", Some(Unit::Bytes), limit)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("sessions_that_were_parked", "Times that a session was parked", sessions.parkings())?;
        counter("instances_that_were_woken", "Times that an instance was made of a snapshot", sessions.wakings())
    }
}
