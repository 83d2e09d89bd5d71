//! Proves that limits hold: the host's own hostile guest and callers attack a host that is made of a configuration.
//!
//! Each attack is a request like any other, over a socket of this machine, by a user of the tenant whose limit it is
//! about. While it runs, a neighbour calls a function again and again: no answer of theirs may be wrong, and none may
//! fail. After it, the attacker's own state must be what it was, and their next call must work.
//!
//! The first host that is attacked has no rates, since most attacks use more than a rate gives; the second has only the
//! host's own limits; then each rate is tried alone. Limits of thousands of sessions, calls or connections, or of
//! gigabytes, are lowered for the attack, and the table says to what: the mechanism is the same, and the machine that
//! proves must survive it.
//!
//! # Layout
//!
//! * [`prove`], here: the attacks in their order. `stage`: a host to attack, and whoever calls it. `attack`: one attack,
//!   its witnesses, and what came of it. `report`: the table.

mod attack;
mod report;
mod stage;

pub use report::Report;

use crate::{
    config::{self, Config},
    limits::{Limits, Quota, Rate},
};
use attack::{Ask, Attack, Many};
use bytesize::ByteSize;
use serde_json::{Value, json};
use stage::{FILE, Stage};
use std::time::Duration;

/// The most that is tried of limits that count something, and of those that are sizes.
const MOST: usize = 100;
const MOST_BYTES: usize = 64 << 20;
/// The most fuel that is used up to empty a bucket, and the most requests a second that one caller exceeds.
const MOST_FUEL: u64 = 200_000_000;
const MOST_REQUESTS: u64 = 20;

/// A limit with its value: as it is configured, and as it is tried.
pub(crate) struct Limit {
    key: &'static str,
    value: String,
    lowered: Option<String>,
}

/// Attacks a configuration.
///
/// `broken` names a limit that is taken off the attacked hosts without the proof knowing: it must then fail.
///
/// # Errors
///
/// What is wrong with the configuration.
pub async fn prove(config: Config, threads: usize, broken: Option<&str>) -> Result<Report, config::Error> {
    let mut report = Report::default();
    let mut without_rates = lowered(&config);
    for limits in all_limits(&mut without_rates) {
        for quota in [&mut limits.user, &mut limits.tenant] {
            (quota.fuel, quota.requests) = (None, None);
        }
    }
    let stage = Stage::start(without_rates.clone(), threads, broken).await?;
    for tenant in 0..config.tenants.len() {
        guests(&stage, &config, tenant, &mut report).await;
    }
    stage.end().await;
    let mut only_the_hosts = without_rates.clone();
    for limits in all_limits(&mut only_the_hosts) {
        (limits.user, limits.tenant) = (Quota::default(), Quota::default());
        limits.max_sessions = limits.max_sessions.min(MOST / 2);
        limits.calls = limits.calls.min(MOST / 4);
        limits.memory = limits.memory.min(MOST_BYTES);
    }
    let stage = Stage::start(only_the_hosts, threads, broken).await?;
    of_the_host(&stage, &config, &mut report).await;
    stage.end().await;
    for tenant in 0..config.tenants.len() {
        for rate in rates(&config, tenant) {
            let mut alone = without_rates.clone();
            *rate.place(&mut alone.tenants[tenant].limits) = Some(rate.tried);
            let stage = Stage::start(alone, threads, broken).await?;
            let limit = limit(rate.key, rate.given, rate.tried, Rate::to_string);
            report.add(attack::spend(&stage, tenant, limit, rate.tried, rate.of_user, rate.code).await);
            stage.end().await;
        }
    }
    Ok(report)
}

/// A rate of a tenant, as it is configured, and as it is tried.
struct TriedRate {
    key: &'static str,
    of_user: bool,
    is_fuel: bool,
    given: Rate,
    tried: Rate,
    code: &'static str,
}

impl TriedRate {
    /// Where it is among a tenant's limits.
    fn place<'a>(&self, limits: &'a mut Limits) -> &'a mut Option<Rate> {
        let quota = if self.of_user { &mut limits.user } else { &mut limits.tenant };
        if self.is_fuel { &mut quota.fuel } else { &mut quota.requests }
    }
}

fn rates(config: &Config, tenant: usize) -> Vec<TriedRate> {
    let (given, tried) = (&config.tenants[tenant].limits, &lowered(config).tenants[tenant].limits.clone());
    let one = |key, of_user, is_fuel, given: Option<Rate>, tried: Option<Rate>| {
        let code = if is_fuel { "budget_spent" } else { "rate_limited" };
        Some(TriedRate { key, of_user, is_fuel, given: given?, tried: tried?, code })
    };
    let all = [
        one("limits.user.fuel_per_second", true, true, given.user.fuel, tried.user.fuel),
        one("limits.user.requests_per_second", true, false, given.user.requests, tried.user.requests),
        one("limits.tenant.fuel_per_second", false, true, given.tenant.fuel, tried.tenant.fuel),
        one("limits.tenant.requests_per_second", false, false, given.tenant.requests, tried.tenant.requests),
    ];
    all.into_iter().flatten().collect()
}

fn all_limits(config: &mut Config) -> impl Iterator<Item = &mut Limits> {
    config.tenants.iter_mut().map(|tenant| &mut tenant.limits).chain([&mut config.limits])
}

/// The configuration with limits that this machine can be made to reach.
fn lowered(config: &Config) -> Config {
    let mut config = config.clone();
    for limits in all_limits(&mut config) {
        limits.queue_per_session = limits.queue_per_session.min(MOST);
        limits.max_sessions = limits.max_sessions.min(MOST);
        limits.calls = limits.calls.min(3 * MOST);
        limits.connections = limits.connections.min(3 * MOST);
        limits.open_files = limits.open_files.min(MOST);
        limits.memory = limits.memory.min(4 * MOST_BYTES);
        limits.memory_per_instance = limits.memory_per_instance.min(MOST_BYTES);
        for size in [&mut limits.output_size, &mut limits.body_size] {
            *size = (*size).min(MOST_BYTES / 8);
        }
        for quota in [&mut limits.user, &mut limits.tenant] {
            quota.calls = quota.calls.map(|calls| calls.min(MOST / 4));
            quota.open_files = quota.open_files.map(|files| files.min(MOST));
            quota.sessions = quota.sessions.map(|sessions| sessions.min(MOST / 2));
            quota.memory = quota.memory.map(|memory| memory.min(MOST_BYTES));
            quota.fuel = quota.fuel.map(|rate| Rate { burst: rate.burst.min(MOST_FUEL), ..rate });
            quota.requests = quota.requests.map(|rate| Rate {
                per_second: rate.per_second.min(MOST_REQUESTS),
                burst: rate.burst.min(MOST as u64),
            });
        }
    }
    config
}

/// Files that each of many users opens.
const FILES: usize = 20;
/// The guest's own words when it is given no more of them.
const NO_MORE_FILES: &str = "no more files are given";

fn files_of(times: usize) -> Value {
    json!({"do": "open", "path": FILE, "times": times})
}

/// A limit, and what it is tried at.
fn limit<T: PartialEq>(key: &'static str, value: T, tried: T, show: impl Fn(&T) -> String) -> Limit {
    let lowered = (value != tried).then(|| show(&tried));
    Limit { key, value: show(&value), lowered }
}

fn size(bytes: &usize) -> String {
    ByteSize::b(*bytes as u64).to_string()
}

fn time(time: &Duration) -> String {
    humantime::format_duration(*time).to_string()
}

/// What a tenant's guests may do.
async fn guests(stage: &Stage, config: &Config, tenant: usize, report: &mut Report) {
    let (given, tried) = (&config.tenants[tenant].limits, stage.limits(tenant));
    let one = |limit: Limit, what: &'static str, input: Value, code: &'static str| Attack {
        tenant,
        limit,
        what,
        ask: Ask::Call(input),
        expected: code,
    };
    let count = |number: &usize| number.to_string();
    let mut rows = Vec::new();
    let fuel = || limit("limits.fuel_per_call", given.fuel_per_call, tried.fuel_per_call, u64::to_string);
    rows.push(one(fuel(), "a guest computes for ever", json!({"do": "spin"}), "fuel_exhausted"));
    let deadline = || limit("limits.deadline", given.deadline, tried.deadline, time);
    let longer = (tried.deadline * 4).as_millis() as u64 + 1000;
    let sleep = json!({"do": "sleep", "milliseconds": longer});
    rows.push(one(deadline(), "a guest waits on a clock", sleep, "deadline_exceeded"));
    let memory = || limit("limits.memory_per_instance", given.memory_per_instance, tried.memory_per_instance, size);
    let take = json!({"do": "take", "bytes": tried.memory_per_instance});
    rows.push(one(memory(), "a guest takes memory in one step", take, "memory_exhausted"));
    rows.push(one(memory(), "a guest takes memory in many steps", json!({"do": "hoard"}), "memory_exhausted"));
    let output = || limit("limits.output_size", given.output_size, tried.output_size, size);
    let answer = json!({"do": "answer", "bytes": tried.output_size + 1});
    rows.push(one(output(), "a guest answers too much", answer, "output_too_large"));
    let emit = json!({"do": "emit", "chunks": tried.output_size, "bytes": 0});
    rows.push(one(output(), "a guest emits too much", emit, "output_too_large"));
    let body = limit("limits.body_size", given.body_size, tried.body_size, size);
    let what = "a caller sends too large a body";
    rows.push(Attack { tenant, limit: body, what, ask: Ask::Body(tried.body_size + 1), expected: "body_too_large" });
    let depth = limit("limits.call_depth", given.call_depth, tried.call_depth, count);
    let nested = (1..=tried.call_depth)
        .rev()
        .fold(json!({"do": "count"}), |input, it| json!({"do": "relay", "name": stage::function(it), "input": input}));
    rows.push(one(depth, "functions call each other too deep", nested, "call_too_deep"));
    for (what, attack) in [
        ("a guest panics", "panic"),
        ("a guest aborts", "abort"),
        ("a guest recurses without end", "recurse"),
        ("a guest divides by zero", "divide"),
        ("a guest goes where no code is", "unreachable"),
        ("a guest writes where it has no memory", "wild"),
        ("a guest answers with what is no text", "garble"),
    ] {
        let limit = Limit { key: "the sandbox", value: "closed".into(), lowered: None };
        rows.push(one(limit, what, json!({"do": attack}), "function_crashed"));
    }
    for attack in rows {
        report.add(attack.run(stage).await);
    }
    report.add(attack::escape(stage, tenant).await);
    let mut many = Vec::new();
    let queue = limit("limits.queue_per_session", given.queue_per_session, tried.queue_per_session, count);
    let (what, calls) = ("a user calls again and again", tried.queue_per_session + 2);
    many.push(Many { tenant, limit: queue, what, calls, of_one: true, expected: "queue_full" });
    if let (Some(calls), Some(at)) = (given.tenant.calls, tried.tenant.calls) {
        let (limit, what) = (limit("limits.tenant.calls", calls, at, count), "users of the tenant call at once");
        many.push(Many { tenant, limit, what, calls: at + 1, of_one: false, expected: "too_many_calls" });
    }
    for attack in many {
        report.add(attack.run(stage).await);
    }
    if let (Some(sessions), Some(at)) = (given.tenant.sessions, tried.tenant.sessions) {
        let limit = limit("limits.tenant.sessions", sessions, at, count);
        report.add(attack::crowd(stage, tenant, limit, at + 1, json!({"do": "count"}), "too_many_sessions").await);
    }
    if let (Some(files), Some(at)) = (given.user.open_files, tried.user.open_files) {
        let limit = limit("limits.user.open_files", files, at, count);
        report.add(one(limit, "a guest opens files, and keeps them", files_of(at + 1), NO_MORE_FILES).run(stage).await);
    }
    if let (Some(files), Some(at)) = (given.tenant.open_files, tried.tenant.open_files) {
        let limit = limit("limits.tenant.open_files", files, at, count);
        report.add(attack::crowd(stage, tenant, limit, at / FILES + 2, files_of(FILES), NO_MORE_FILES).await);
    }
    let in_pieces = json!({"do": "take", "bytes": 8 << 20});
    if let (Some(memory), Some(at)) = (given.user.memory, tried.user.memory) {
        let limit = limit("limits.user.memory", memory, at, size);
        report.add(attack::pile(stage, tenant, limit, in_pieces.clone(), at, "memory_exhausted").await);
    }
    if let (Some(memory), Some(at)) = (given.tenant.memory, tried.tenant.memory) {
        let limit = limit("limits.tenant.memory", memory, at, size);
        report.add(attack::crowd(stage, tenant, limit, at / (8 << 20) + 2, in_pieces, "tenant_full").await);
    }
}

/// What holds for all tenants together.
async fn of_the_host(stage: &Stage, config: &Config, report: &mut Report) {
    let (given, tried) = (&config.limits, stage.host_limits());
    let count = |number: &usize| number.to_string();
    let many = limit("limits.calls", given.calls, tried.calls, count);
    let what = "users call at once";
    let many = Many { tenant: 0, limit: many, what, calls: tried.calls + 1, of_one: false, expected: "too_many_calls" };
    report.add(many.run(stage).await);
    let sessions = limit("limits.max_sessions", given.max_sessions, tried.max_sessions, count);
    let users = tried.max_sessions + 1;
    report.add(attack::crowd(stage, 0, sessions, users, json!({"do": "count"}), "too_many_sessions").await);
    let memory = limit("limits.memory", given.memory, tried.memory, size);
    let (users, take) = (tried.memory / (8 << 20) + 2, json!({"do": "take", "bytes": 8 << 20}));
    report.add(attack::crowd(stage, 0, memory, users, take, "host_full").await);
    let files = limit("limits.open_files", given.open_files, tried.open_files, count);
    report.add(attack::crowd(stage, 0, files, tried.open_files / FILES + 2, files_of(FILES), NO_MORE_FILES).await);
    let connections = limit("limits.connections", given.connections, tried.connections, count);
    report.add(attack::connections(stage, connections, tried.connections).await);
    for shape in attack::SHAPES {
        report.add(attack::malformed(stage, shape).await);
    }
}
