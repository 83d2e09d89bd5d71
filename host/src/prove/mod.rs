//! Proves that limits hold: the host's own hostile guests and callers attack hosts that are made of a configuration.
//!
//! Each attack is a request like any other, over a socket of this machine, by a user of the tenant whose limit it is
//! about. A limit is told as held if three witnesses agree:
//!
//! | witness | what it must see |
//! |---|---|
//! | the answers | the limit's own code and key, as often as what is beyond the limit was asked for, and nothing else; the attacker's own state as it was, and their next call right |
//! | the machine | the process's memory grown by no more than the limit, and what is tolerated; the host's own count never above it; so with descriptors, where they are attacked |
//! | a neighbour | right answers all the while, and soon; where the limit is one that they share, no refusal but the limit's own |
//!
//! The host's word on itself is not enough: a host that miscounts would be acquitted by its own count.
//!
//! # Layout
//!
//! * [`prove`], here: the attacks in their order. `tried`: the configurations of the attacked hosts, in each of which
//!   the limits not under attack leave room. `stage`: such a host, and its callers. `attack`: the actions, and the
//!   right answers. `witness`: the machine's and the neighbour's view. `report`: the table.

mod attack;
mod report;
mod stage;
mod tried;
mod witness;

pub use report::Report;

use crate::{
    config::{self, Config},
    limits::{Amount, Limit, Limits, Per, Quota},
};
use attack::{Ask, FILES, Refusal, SHAPES, Trial, beyond, listing, opening, taking};
use report::Attacked;
use serde_json::{Value, json};
use stage::Stage;
use std::time::{Duration, Instant};

/// Attacks a configuration.
///
/// # Errors
///
/// The problems of the configuration.
pub async fn prove(config: Config, threads: usize) -> Result<Report, config::Error> {
    prove_flawed(config, threads, &|_| {}, &Part::ALL).await
}

/// Like [`prove`], but runs only these parts, and attacks hosts whose configurations `flaw` has changed, while
/// judging them by the unchanged ones. So tests can show that a limit which does not hold is noticed.
#[doc(hidden)]
pub async fn prove_flawed(
    config: Config,
    threads: usize,
    flaw: &(dyn Fn(&mut Config) + Sync),
    parts: &[Part],
) -> Result<Report, config::Error> {
    let began = Instant::now();
    let mut prover = Prover { config, threads, flaw, report: Report::default() };
    for part in parts {
        match part {
            Part::Memory => prover.memory().await?,
            Part::Processor => prover.processor().await?,
            Part::Sizes => prover.sizes().await?,
            Part::Numbers => prover.numbers().await?,
            Part::Rates => prover.rates().await?,
        }
    }
    prover.report.took = began.elapsed();
    Ok(prover.report)
}

/// A part of the attacks.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Memory, of all levels.
    Memory,
    /// Fuel, time, and what a unit costs.
    Processor,
    /// Sizes, and what one user has at once.
    Sizes,
    /// Calls, sessions, connections and files, of all.
    Numbers,
    /// Rates, and properties that are no limit.
    Rates,
}

impl Part {
    /// All of them. Memory comes first: what the process has used and given back would hide how much more it uses.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Processor, Self::Sizes, Self::Numbers, Self::Rates];
}

/// The attacks on one host after the other.
struct Prover<'a> {
    config: Config,
    threads: usize,
    flaw: &'a (dyn Fn(&mut Config) + Sync),
    report: Report,
}

impl Prover<'_> {
    /// A host of which these limits are attacked.
    async fn stage(&self, attacked: &[&Limit]) -> Result<Stage, config::Error> {
        Stage::start(tried::only(&self.config, attacked), self.threads, self.flaw).await
    }

    fn tenants(&self) -> std::ops::Range<usize> {
        0..self.config.tenants.len()
    }

    /// True if some tenant's limits have an amount for this one.
    fn says(&self, limit: &Limit) -> bool {
        self.config.tenants.iter().any(|tenant| tenant.limits.amount(limit).is_some())
    }

    /// A limit of a tenant, as it is configured and as it is tried.
    fn of_tenant(&self, stage: &Stage, tenant: usize, limit: &'static Limit) -> Attacked {
        told_of(limit, &self.config.tenants[tenant].limits, stage.limits(tenant))
    }

    fn of_host(&self, stage: &Stage, limit: &'static Limit) -> Attacked {
        told_of(limit, &self.config.limits, stage.host_limits())
    }

    /// Memory of the host, of tenants, of users, and of instances.
    async fn memory(&mut self) -> Result<(), config::Error> {
        let stage = self.stage(&[Limits::MEMORY]).await?;
        let limit = self.of_host(&stage, Limits::MEMORY);
        self.crowds(&stage, 0, (Limits::MEMORY, &limit), stage.host_limits().memory).await;
        stage.end().await;
        if self.says(Quota::TENANT_MEMORY) {
            let row = Quota::TENANT_MEMORY;
            let stage = self.stage(&[row]).await?;
            for tenant in self.tenants() {
                let Some(memory) = stage.limits(tenant).tenant.memory else { continue };
                let limit = self.of_tenant(&stage, tenant, row);
                self.crowds(&stage, tenant, (row, &limit), memory).await;
            }
            stage.end().await;
        }
        if self.says(Quota::USER_MEMORY) {
            let row = Quota::USER_MEMORY;
            let stage = self.stage(&[row]).await?;
            for tenant in self.tenants() {
                let Some(memory) = stage.limits(tenant).user.memory else { continue };
                let limit = self.of_tenant(&stage, tenant, row);
                let what = "a user's guest takes memory call by call";
                let trial = Trial { stage: &stage, tenant, limit, what, refusal: Refusal::by(row) };
                let (bytes, fit) = piece(memory);
                self.report.add(trial.pile(2 * fit + 2, taking(bytes), fit).await);
            }
            stage.end().await;
        }
        let row = Limits::MEMORY_PER_INSTANCE;
        let stage = self.stage(&[row]).await?;
        for tenant in self.tenants() {
            let memory = stage.limits(tenant).memory_per_instance;
            let limit = self.of_tenant(&stage, tenant, row);
            let refusal = Refusal::by(row);
            let trial = |what| Trial { stage: &stage, tenant, limit: limit.clone(), what, refusal };
            let take = Ask::Call(json!({"do": "take", "bytes": memory}));
            self.report.add(trial("a guest takes memory in one step").again(take).await);
            let hoard = Ask::Call(json!({"do": "hoard"}));
            self.report.add(trial("a guest takes memory in many steps").again(hoard).await);
            // By the pointer that each element is, twice what there may be.
            self.report.add(trial("a guest's table grows").tables(memory / 4).await);
        }
        stage.end().await;
        Ok(())
    }

    /// Many users take all of somebody's memory, and more.
    async fn crowds(&mut self, stage: &Stage, tenant: usize, (row, limit): (&'static Limit, &Attacked), memory: usize) {
        let refusal = Refusal::by(row);
        let (bytes, fit) = piece(memory);
        let trial = |what| Trial { stage, tenant, limit: limit.clone(), what, refusal };
        let what = "users take memory one after the other";
        self.report.add(trial(what).crowd(2 * fit + 2, taking(bytes), fit).await);
        let what = "users have memory grow, and write to it in their next call";
        self.report.add(trial(what).reserve_and_write(4 * fit, bytes, fit).await);
    }

    /// Fuel, and time.
    async fn processor(&mut self) -> Result<(), config::Error> {
        let row = Limits::FUEL_PER_CALL;
        let stage = self.stage(&[row]).await?;
        let refusal = Refusal::by(row);
        for tenant in self.tenants() {
            let limit = self.of_tenant(&stage, tenant, row);
            let trial = Trial { stage: &stage, tenant, limit, what: "a guest computes for ever", refusal };
            self.report.add(trial.again(Ask::Call(json!({"do": "spin"}))).await);
        }
        stage.end().await;
        // The cost of a unit does not depend on tenants, and is measured on a host with enough fuel.
        let stage = Stage::start(tried::priced(&self.config), self.threads, self.flaw).await?;
        for (what, input) in has_the_host_work() {
            let limit = self.of_tenant(&stage, 0, row);
            self.report.add(Trial { stage: &stage, tenant: 0, limit, what, refusal }.price(input).await);
        }
        stage.end().await;
        let row = Limits::DEADLINE;
        let stage = self.stage(&[row]).await?;
        for tenant in self.tenants() {
            let limit = self.of_tenant(&stage, tenant, row);
            let refusal = Refusal::by(row);
            let trial = |what| Trial { stage: &stage, tenant, limit: limit.clone(), what, refusal };
            let longer = json!({"do": "sleep", "milliseconds": beyond(stage.limits(tenant).deadline)});
            self.report.add(trial("a guest waits on a clock").again(Ask::Once(longer)).await);
            let what = "ten users write to large state until their deadlines";
            self.report.add(trial(what).deadlines_together().await);
        }
        stage.end().await;
        Ok(())
    }

    /// Attacks on what goes in and out, on what one user has at once, and on the sandbox.
    async fn sizes(&mut self) -> Result<(), config::Error> {
        // None of these comes in the way of another.
        let (queue, files) = (Limits::QUEUE_PER_SESSION, Quota::USER_OPEN_FILES);
        let stage = self.stage(&[Limits::OUTPUT_SIZE, Limits::CALL_DEPTH, queue, files]).await?;
        for tenant in self.tenants() {
            let limits = stage.limits(tenant);
            let (size_of_output, call_depth) = (limits.output_size, limits.call_depth);
            let limit = self.of_tenant(&stage, tenant, Limits::OUTPUT_SIZE);
            let refusal = Refusal::by(Limits::OUTPUT_SIZE);
            let trial = |what| Trial { stage: &stage, tenant, limit: limit.clone(), what, refusal };
            let answer = json!({"do": "answer", "bytes": size_of_output + 1});
            self.report.add(trial("a guest answers too much").again(Ask::Call(answer)).await);
            let emit = json!({"do": "emit", "chunks": size_of_output, "bytes": 0});
            self.report.add(trial("a guest emits too much").again(Ask::Call(emit)).await);
            let limit = self.of_tenant(&stage, tenant, Limits::CALL_DEPTH);
            let nested = (1..=call_depth).rev().fold(
                json!({"do": "count"}),
                |input, it| json!({"do": "relay", "name": stage::function(it), "input": input}),
            );
            let (what, refusal) = ("functions call each other too deep", Refusal::by(Limits::CALL_DEPTH));
            self.report.add(Trial { stage: &stage, tenant, limit, what, refusal }.again(Ask::Call(nested)).await);
            let limit = self.of_tenant(&stage, tenant, queue);
            let (what, refusal) = ("a user calls again and again", Refusal::by(queue));
            let trial = Trial { stage: &stage, tenant, limit, what, refusal };
            self.report.add(trial.queue(stage.limits(tenant).queue_per_session).await);
            if let Some(most) = stage.limits(tenant).user.open_files {
                let limit = self.of_tenant(&stage, tenant, files);
                let refusal = Refusal::NO_MORE_FILES;
                let trial = |what| Trial { stage: &stage, tenant, limit: limit.clone(), what, refusal };
                let open = Ask::Call(opening(most + 1));
                self.report.add(trial("a guest opens files, and keeps them").again(open).await);
                let list = Ask::Call(listing(most + 1));
                self.report.add(trial("a guest lists a folder, and keeps the listings").again(list).await);
            }
            let limit = told("the sandbox", "closed");
            let trial = |what| Trial { stage: &stage, tenant, limit: limit.clone(), what, refusal: Refusal::CRASH };
            for (what, attack) in [
                ("a guest panics", "panic"),
                ("a guest aborts", "abort"),
                ("a guest recurses without end", "recurse"),
                ("a guest divides by zero", "divide"),
                ("a guest goes where no code is", "unreachable"),
                ("a guest writes where it has no memory", "wild"),
                ("a guest answers with what is no text", "garble"),
            ] {
                self.report.add(trial(what).again(Ask::Call(json!({"do": attack}))).await);
            }
            self.report.add(trial("a guest looks for files, environment, sockets").escape().await);
            let limit = told("the neighbour", format!("served within {}", time(&witness::SERVED_WITHIN)));
            let what = "a user with large state crashes, runs and is parked";
            let refusal = Refusal::CRASH;
            self.report.add(Trial { stage: &stage, tenant, limit, what, refusal }.large_state().await);
        }
        for shape in &SHAPES {
            let (limit, refusal) = (told("the edge", "HTTP/1.1"), Refusal::CRASH);
            let trial = Trial { stage: &stage, tenant: 0, limit, what: shape.what, refusal };
            self.report.add(trial.malformed(shape).await);
        }
        stage.end().await;
        let (row, files) = (Limits::BODY_SIZE, Quota::TENANT_OPEN_FILES);
        let stage = self.stage(&[row, files]).await?;
        for tenant in self.tenants() {
            let limit = self.of_tenant(&stage, tenant, row);
            let (what, refusal) = ("a caller sends too large a body", Refusal::by(row));
            let trial = Trial { stage: &stage, tenant, limit, what, refusal };
            self.report.add(trial.again(Ask::Body(stage.limits(tenant).body_size + 1)).await);
            let Some(most) = stage.limits(tenant).tenant.open_files else { continue };
            let limit = self.of_tenant(&stage, tenant, files);
            let (what, refusal) = ("users' guests open files, and keep them", Refusal::NO_MORE_FILES);
            let trial = Trial { stage: &stage, tenant, limit, what, refusal };
            self.report.add(trial.crowd(most / FILES + 2, opening(FILES), most / FILES).await);
        }
        stage.end().await;
        Ok(())
    }

    /// Calls, sessions, connections and files at once.
    async fn numbers(&mut self) -> Result<(), config::Error> {
        let (calls, sessions) = (Quota::TENANT_CALLS, Quota::TENANT_SESSIONS);
        if self.says(Quota::TENANT_CALLS) {
            let stage = self.stage(&[calls]).await?;
            for tenant in self.tenants() {
                let Some(most) = stage.limits(tenant).tenant.calls else { continue };
                let limit = self.of_tenant(&stage, tenant, calls);
                let (what, refusal) = ("users call at once", Refusal::by(calls));
                self.report.add(Trial { stage: &stage, tenant, limit, what, refusal }.at_once(most).await);
            }
            stage.end().await;
        }
        if self.says(Quota::TENANT_SESSIONS) {
            let stage = self.stage(&[sessions]).await?;
            for tenant in self.tenants() {
                let Some(most) = stage.limits(tenant).tenant.sessions else { continue };
                let limit = self.of_tenant(&stage, tenant, sessions);
                let (what, refusal) = ("users come one after the other", Refusal::by(sessions));
                let trial = Trial { stage: &stage, tenant, limit, what, refusal };
                self.report.add(trial.crowd(most + 3, json!({"do": "count"}), most).await);
            }
            stage.end().await;
        }
        let (calls, sessions, connections) = (Limits::CALLS, Limits::MAX_SESSIONS, Limits::CONNECTIONS);
        let stage = self.stage(&[calls]).await?;
        let limit = self.of_host(&stage, calls);
        let (what, refusal) = ("users call at once", Refusal::by(calls));
        let trial = Trial { stage: &stage, tenant: 0, limit, what, refusal };
        self.report.add(trial.at_once(stage.host_limits().calls).await);
        stage.end().await;
        let stage = self.stage(&[sessions]).await?;
        let limit = self.of_host(&stage, sessions);
        let (what, refusal) = ("users are live at once", Refusal::by(sessions));
        let trial = Trial { stage: &stage, tenant: 0, limit, what, refusal };
        self.report.add(trial.at_once(stage.host_limits().max_sessions).await);
        stage.end().await;
        let stage = self.stage(&[connections]).await?;
        let limit = self.of_host(&stage, connections);
        let what = "a caller opens connections and says nothing";
        let refusal = Refusal::by(connections);
        let trial = Trial { stage: &stage, tenant: 0, limit, what, refusal };
        self.report.add(trial.connections(stage.host_limits().connections).await);
        stage.end().await;
        let row = Limits::OPEN_FILES;
        let stage = self.stage(&[row]).await?;
        let most = stage.host_limits().open_files;
        let limit = self.of_host(&stage, row);
        let (what, refusal) = ("users' guests open files, and keep them", Refusal::NO_MORE_FILES);
        let trial = Trial { stage: &stage, tenant: 0, limit, what, refusal };
        self.report.add(trial.crowd(most / FILES + 2, opening(FILES), most / FILES).await);
        stage.end().await;
        Ok(())
    }

    /// Attacks on what may be used over time, each rate on a host of its own: attacks use more than a rate gives.
    async fn rates(&mut self) -> Result<(), config::Error> {
        for row in [Quota::USER_FUEL, Quota::USER_REQUESTS, Quota::TENANT_FUEL, Quota::TENANT_REQUESTS] {
            if !self.says(row) {
                continue;
            }
            let stage = self.stage(&[row]).await?;
            for tenant in self.tenants() {
                let Some(Amount::Rate(rate)) = stage.limits(tenant).amount(row) else { continue };
                let of_user = row.per == Per::User;
                let limit = self.of_tenant(&stage, tenant, row);
                let what = if of_user { "a user uses up what there is" } else { "users use up what there is" };
                let trial = Trial { stage: &stage, tenant, limit, what, refusal: Refusal::by(row) };
                self.report.add(trial.spend(rate, of_user).await);
            }
            stage.end().await;
        }
        Ok(())
    }
}

/// Guests that use up their fuel by having the host work.
fn has_the_host_work() -> [(&'static str, Value); 5] {
    let call = json!({"do": "call", "name": stage::function(1), "input": {"do": "panic"}});
    let again = |of: Value| json!({"do": "repeat", "of": of});
    [
        ("a guest reads the clock for ever", json!({"do": "work", "milliseconds": 3_600_000})),
        ("a guest asks for functions that there are not", again(json!({"do": "exists", "name": "nobody"}))),
        ("a guest writes to its log for ever", again(json!({"do": "print", "text": "again", "times": 1}))),
        ("a guest calls one that crashes, for ever", again(call)),
        ("a guest writes to large state for ever", json!({"do": "overwrite", "milliseconds": 3_600_000})),
    ]
}

/// Bytes that one user, or one call, takes of so much memory, and how many times they fit into it.
fn piece(memory: usize) -> (usize, usize) {
    let bytes = (memory / 8).max(64 << 10);
    (bytes, memory / bytes)
}

fn told_of(limit: &'static Limit, given: &Limits, tried: &Limits) -> Attacked {
    let show = |amount: Option<Amount>| amount.map_or("none".to_owned(), |amount| amount.to_string());
    let (value, tried) = (given.amount(limit), tried.amount(limit));
    Attacked { key: limit.key, value: show(value), tried: (value != tried).then(|| show(tried)) }
}

/// Attacks on properties that hold without being a limit.
fn told(key: &'static str, value: impl Into<String>) -> Attacked {
    Attacked { key, value: value.into(), tried: None }
}

fn time(time: &Duration) -> String {
    humantime::format_duration(*time).to_string()
}
