//! The host's metrics, for Prometheus.
//!
//! Figures of calls are counted where a call ends, for each tenant: there are few tenants, and their names are the
//! operator's. No figure names a user. Figures that are kept elsewhere, such as the number of sessions, are read on
//! each scrape.

use crate::limits::Bill;
use prometheus_client::{
    collector::Collector,
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::time::Duration;

/// All figures of a host.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Families,
}

/// The label of a tenant's figures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfTenant {
    pub(crate) tenant: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    tenant: String,
    code: &'static str,
}

/// The figures of calls, of all tenants.
#[derive(Debug)]
struct Families {
    calls: Family<OfTenant, Counter>,
    functions: Family<OfTenant, Counter>,
    fuel: Family<OfTenant, Counter>,
    queue: Family<OfTenant, Histogram, fn() -> Histogram>,
    call: Family<OfTenant, Histogram, fn() -> Histogram>,
    errors: Family<OfCode, Counter>,
    stops: Family<OfCode, Counter>,
}

/// The figures of one tenant's calls.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    calls: Counter,
    functions: Counter,
    fuel: Counter,
    queue: Histogram,
    call: Histogram,
    stops: Family<OfCode, Counter>,
    tenant: String,
}

/// From 16 microseconds to 17 seconds.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(16e-6, 4.0, 11))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("carrel");
        let (calls, functions, fuel) = (Family::default(), Family::default(), Family::default());
        registry.register("calls", "Calls that have ended, however they did", Family::clone(&calls));
        registry.register("functions_run", "Functions that calls have run, siblings too", Family::clone(&functions));
        registry.register("fuel", "Units of fuel that calls have used", Family::clone(&fuel));
        let queue = Family::new_with_constructor(times as fn() -> Histogram);
        let call = Family::new_with_constructor(times as fn() -> Histogram);
        let help = "How long calls waited for their turn";
        registry.register_with_unit("queue", help, Unit::Seconds, Family::clone(&queue));
        registry.register_with_unit("call", "How long calls ran", Unit::Seconds, Family::clone(&call));
        let (errors, stops) = (Family::default(), Family::default());
        registry.register("errors", "Requests to functions that were answered with an error", Family::clone(&errors));
        let help = "Functions that were stopped, also where their callers went on";
        registry.register("stops", help, Family::clone(&stops));
        Self { registry, calls: Families { calls, functions, fuel, queue, call, errors, stops } }
    }

    /// Figures for a tenant's calls.
    pub(crate) fn of_tenant(&self, name: &str) -> CallMetrics {
        let whose = OfTenant { tenant: name.to_owned() };
        CallMetrics {
            calls: self.calls.calls.get_or_create_owned(&whose),
            functions: self.calls.functions.get_or_create_owned(&whose),
            fuel: self.calls.fuel.get_or_create_owned(&whose),
            queue: self.calls.queue.get_or_create_owned(&whose),
            call: self.calls.call.get_or_create_owned(&whose),
            stops: self.calls.stops.clone(),
            tenant: whose.tenant,
        }
    }

    /// Counts a request to a function that was answered with an error; without a tenant if it named no user.
    pub(crate) fn failed(&self, tenant: Option<&str>, code: &'static str) {
        let tenant = tenant.unwrap_or_default().to_owned();
        self.calls.errors.get_or_create(&OfCode { tenant, code }).inc();
    }

    /// Adds figures that are kept elsewhere, and read on each scrape.
    pub(crate) fn register(&mut self, figures: impl Collector) {
        self.registry.register_collector(Box::new(figures));
    }

    /// The figures, in the text format of OpenMetrics 1.0.
    pub(crate) fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    /// The figures, in Prometheus' text format 0.0.4
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).
    pub(crate) fn text(&self) -> String {
        older(&self.open_metrics())
    }
}

/// Converts a text in OpenMetrics' format to the older one. There a counter's name ends in `_total` in its head as in
/// its samples, units are comments, and there is no end mark. Counters, gauges and histograms, the only kinds here,
/// have the same samples in both.
fn older(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        // The type is told after the help.
        let is_counter = |line: &&str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let of_counter = match line.strip_prefix("# HELP ") {
            Some(_) => lines.peek().is_some_and(is_counter),
            None => is_counter(&line),
        };
        // `#`, `HELP` or `TYPE`, the name, and the rest.
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            [mark, what, name, rest] if of_counter => {
                older.extend([mark, " ", what, " ", name, "_total ", rest]);
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

impl CallMetrics {
    /// Counts a call that has ended.
    pub(crate) fn ended(&self, bill: &Bill) {
        self.calls.inc();
        self.functions.inc_by(bill.functions.into());
        self.fuel.inc_by(bill.fuel);
        self.queue.observe(seconds(bill.waited));
        self.call.observe(seconds(bill.ran));
    }

    /// Calls that have ended.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Units of fuel that ended calls have used.
    pub(crate) fn fuel(&self) -> u64 {
        self.fuel.get()
    }

    /// Counts a function that was stopped.
    pub(crate) fn stopped(&self, code: &'static str) {
        self.stops.get_or_create(&OfCode { tenant: self.tenant.clone(), code }).inc();
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_the_same_samples_and_counters_by_their_full_names() {
        let metrics = Metrics::new();
        let calls = metrics.of_tenant("a \"tenant\" # TYPE x counter");
        calls.ended(&Bill { fuel: 7, functions: 2, ..Bill::default() });
        calls.stopped("function_crashed");
        metrics.failed(None, "not_json");
        let (new, old) = (metrics.open_metrics(), metrics.text());
        let samples =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&new), samples(&old));
        assert!(new.ends_with("# EOF\n") && new.contains("# UNIT carrel_call_seconds seconds\n"));
        assert!(!old.contains("# EOF") && !old.contains("# UNIT"));
        let mut heads = 0;
        for line in old.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap_or_default();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(old.contains(&format!("# HELP {name} ")), "{name} has no help");
            heads += 1;
        }
        assert_eq!(heads, 7);
        assert!(old.contains(
            "# HELP carrel_fuel_total Units of fuel that calls have used.\n# TYPE carrel_fuel_total counter\n"
        ));
    }
}
