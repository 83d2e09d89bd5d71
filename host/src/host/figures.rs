//! Figures of a host's sessions, tenants and engine, for its metrics.

use crate::{
    instance::Engine,
    observe::OfTenant,
    session::{Registry, Tenant},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{fmt, sync::Arc};

/// The sources of figures that are read on each scrape.
pub(super) struct Figures {
    pub(super) sessions: Arc<Registry>,
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) engine: Engine,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Figures {
    /// Writes a figure of each tenant.
    fn of_tenants(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, unit): (&str, &str, Option<Unit>),
        value: impl Fn(&Tenant) -> Option<i64>,
    ) -> fmt::Result {
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for tenant in &self.tenants {
            let Some(value) = value(tenant) else { continue };
            let whose = OfTenant { tenant: tenant.name().to_string() };
            ConstGauge::new(value).encode(metric.encode_family(&whose)?)?;
        }
        Ok(())
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
            "Memory of instances, snapshots, callers and the log, as limits.memory counts it",
            Some(Unit::Bytes),
            used,
        )?;
        gauge("memory_limit", "What limits.memory allows", Some(Unit::Bytes), limit)?;
        let (open, limit) = sessions.open_files();
        gauge("open_files", "Files and connections that guests have open", None, open)?;
        gauge("open_files_limit", "What limits.open_files allows", None, limit)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("sessions_that_were_parked", "Times that a session was parked", sessions.parkings())?;
        let dropped = "Sessions that were dropped for want of room";
        counter("sessions_that_were_dropped", dropped, sessions.dropped_for_room())?;
        counter("instances_that_were_woken", "Times that an instance was made of a snapshot", sessions.wakings())?;
        let whole = |value: usize| i64::try_from(value).ok();
        let help = "Sessions that a tenant has, live or parked";
        self.of_tenants(&mut encoder, ("tenant_sessions", help, None), |tenant| whole(tenant.sessions()))?;
        let help = "Calls of a tenant that wait or run";
        self.of_tenants(&mut encoder, ("tenant_calls_in_progress", help, None), |tenant| whole(tenant.calls()))?;
        let memory =
            ("tenant_memory", "Memory that a tenant's instances, snapshots and callers take", Some(Unit::Bytes));
        self.of_tenants(&mut encoder, memory, |tenant| whole(tenant.memory_used()))?;
        let help = "Files and connections that a tenant's guests have open";
        self.of_tenants(&mut encoder, ("tenant_open_files", help, None), |tenant| whole(tenant.open_files()))?;
        let help = "Units of fuel that are left to a tenant that has a rate; less than nothing is a debt";
        self.of_tenants(&mut encoder, ("tenant_fuel_left", help, None), Tenant::fuel_left)
    }
}
