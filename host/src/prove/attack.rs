//! The attacks, one by one: the actions, and the right answers.
//!
//! An answer is right if it is a success within the limit, or a refusal with the code and key of the very limit under
//! attack. Another limit's refusal, a crash, or a success beyond the limit shows that the limit does not hold.

use super::{
    report::{Attacked, Row},
    stage::{Caller, FILE, FOLDER, Reply, Stage},
    witness::{Bounds, Counter, Neighbour, Patience, SERVED_WITHIN, Sampler, processor_time, resident},
};
use crate::limits::{Limit, Limits, Quota, Rate};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{
    future::Future,
    ops::RangeInclusive,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Users of a tenant, by number: the attacker and the neighbour. The crowd begins after them.
const MALLORY: usize = 0;
const ALICE: usize = 1;
const CROWD: usize = 2;
/// Times that a single call attacks.
const TIMES: usize = 3;
/// Calls, or users, that come beyond what is allowed.
const BEYOND: usize = 3;
/// The most by which an answer may be later than its deadline: the time of a rollback on a busy machine.
const LATE: Duration = Duration::from_secs(1);
/// The time that sleepers stay, so that all others come meanwhile.
const SLEEP: u64 = 600;
/// Files that each of many users opens.
pub(super) const FILES: usize = 20;
/// Rounds in which a user with large state crashes, runs and is parked.
const ROUNDS: usize = 2;
/// Bytes of what is called large state, where the limits leave so much, and of that of each of ten users.
const LARGE: usize = 16 << 20;
const TENTH: usize = 4 << 20;
/// Users whose deadlines come together.
const TOGETHER: usize = 10;
/// The longest `Retry-After` that is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// The most of the processor that a unit of fuel may cost, in that of a plain loop's. A guest gets up to four times as
/// much of it where it asks the host for something as where it computes (see `instance::work`); the rest is for machines
/// that are otherwise. In builds that are not optimised the host takes ten times as long.
const DEAREST: f64 = if cfg!(debug_assertions) { 80.0 } else { 8.0 };

/// The answer with which a limit refuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    code: &'static str,
    /// The key that the answer must name; none if it is not about a limit.
    setting: Option<&'static str>,
    /// Words that the answer must have, such as a guest's own.
    words: &'static str,
}

impl Refusal {
    /// The host refuses because of a limit, and names it.
    pub(super) fn by(limit: &'static Limit) -> Self {
        Self { code: limit.code().unwrap_or_default(), setting: Some(limit.key), words: "" }
    }

    /// The sandbox stops it.
    pub(super) const CRASH: Self = Self { code: "function_crashed", setting: None, words: "" };

    /// The guest's words when it is given no more files.
    pub(super) const NO_MORE_FILES: Self =
        Self { code: "function_failed", setting: None, words: "no more files are given" };

    fn is(&self, answer: &Reply) -> bool {
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        answer.status != 200
            && answer.code == self.code
            && self.setting.is_none_or(|setting| answer.setting == setting)
            && detail.contains(self.words)
    }

    /// Returns true if the guest itself decided on the refusal: then its call counts as done.
    fn is_the_guests(&self) -> bool {
        self.code == "function_failed"
    }

    fn told(&self) -> &'static str {
        if self.words.is_empty() { self.code } else { self.words }
    }

    /// Checks that each answer is a success or this refusal, and that so many are.
    fn judge(&self, answers: &[Reply], refused: RangeInclusive<usize>) -> Result<String, String> {
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            if !self.is(answer) {
                return Err(format!("not {}, but {}", self.told(), answer.told()));
            }
        }
        let (all, seen) = (answers.len(), answers.iter().filter(|answer| answer.status != 200).count());
        if refused.contains(&seen) {
            return Ok(format!("{}, {seen} of {all}", self.told()));
        }
        let (least, most) = refused.into_inner();
        let should = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        Err(format!("{seen} of {all} were refused, and {should} should have been"))
    }
}

/// A limit, and the attack on it.
pub(super) struct Trial<'a> {
    pub(super) stage: &'a Stage,
    pub(super) tenant: usize,
    pub(super) limit: Attacked,
    pub(super) what: &'static str,
    pub(super) refusal: Refusal,
}

/// The outcome of an attack: the refusal that stopped it, or the reason why the limit does not hold.
type AttackResult = Result<String, String>;

impl Trial<'_> {
    fn caller(&self, number: usize) -> Caller {
        self.stage.caller(self.tenant, number)
    }

    /// True if this limit is attacked.
    fn is(&self, limit: &Limit) -> bool {
        self.limit.key == limit.key
    }

    /// True if the neighbour is refused, or waits, with the attacker, since the limit is one that both share.
    fn is_shared(&self) -> bool {
        let of_host = [Limits::CALLS, Limits::MAX_SESSIONS, Limits::MEMORY, Limits::OPEN_FILES];
        let of_tenant = self.limit.key.starts_with("limits.tenant.");
        of_host.into_iter().any(|limit| self.is(limit)) || (of_tenant && self.stage.beside(self.tenant) == self.tenant)
    }

    /// True if the neighbour may meet the limit by itself: it calls more often than most rates allow.
    fn is_met_by_all(&self) -> bool {
        self.limit.key.ends_with("_per_second")
    }

    /// The number of refusals that are right where so many come beyond a limit: the neighbour may be one more.
    fn beyond(&self, beyond: usize) -> RangeInclusive<usize> {
        beyond..=beyond + usize::from(self.is_shared())
    }

    /// The most that the limits allow of each measured figure.
    fn bounds(&self) -> Bounds {
        let (host, limits) = (self.stage.host_limits(), self.stage.limits(self.tenant));
        let of_host =
            Bounds { counter: Counter::Host, counted: host.memory, resident: host.memory, files: None, live: None };
        let files = |most: Option<usize>| {
            let most = most.unwrap_or(host.open_files);
            Bounds { files: Some([most, most]), ..of_host }
        };
        let memory = |counter, most: Option<usize>| {
            let most = most.unwrap_or(host.memory);
            Bounds { counter, counted: most, resident: most, ..of_host }
        };
        if self.is(Quota::TENANT_MEMORY) {
            memory(Counter::Tenant(self.tenant), limits.tenant.memory)
        } else if self.is(Quota::USER_MEMORY)
            && let Some(user) = self.stage.user(&self.caller(MALLORY))
        {
            memory(Counter::User(user), limits.user.memory)
        } else if self.is(Limits::MEMORY_PER_INSTANCE) {
            // The instance, and what rollback keeps of it.
            Bounds { resident: 2 * limits.memory_per_instance, ..of_host }
        } else if self.is(Quota::USER_OPEN_FILES) {
            files(limits.user.open_files)
        } else if self.is(Quota::TENANT_OPEN_FILES) {
            files(limits.tenant.open_files)
        } else if self.is(Limits::OPEN_FILES) {
            files(Some(host.open_files))
        } else if self.is(Limits::CONNECTIONS) {
            // Both ends of each are of this process, and only one of those beyond the limit.
            Bounds { files: Some([host.open_files, 2 * host.connections + BEYOND]), ..of_host }
        } else if self.is(Limits::MAX_SESSIONS) {
            Bounds { live: Some(host.max_sessions), ..of_host }
        } else {
            of_host
        }
    }

    /// Runs an attack before its witnesses.
    async fn run(self, attack: impl Future<Output = AttackResult>) -> Row {
        let beside = self.stage.beside(self.tenant);
        let longest = if self.is_shared() { self.stage.limits(beside).deadline + LATE } else { SERVED_WITHIN };
        let refusal = (self.is_shared() || self.is_met_by_all()).then_some(self.refusal.code);
        self.stage.clear().await;
        let neighbour = Neighbour::start(self.stage.caller(beside, ALICE), Patience { refusal, longest });
        self.run_beside(Some(neighbour), attack).await
    }

    async fn run_beside(
        self,
        neighbour: Option<impl Future<Output = std::io::Result<Neighbour>>>,
        attack: impl Future<Output = AttackResult>,
    ) -> Row {
        settle().await;
        let witnesses = async {
            let meter = Sampler::start(self.stage.host(), self.bounds())?;
            let neighbour = match neighbour {
                Some(neighbour) => Some(neighbour.await?),
                None => None,
            };
            Ok((meter, neighbour))
        };
        let witnesses: std::io::Result<(Sampler, Option<Neighbour>)> = witnesses.await;
        let began = Instant::now();
        let mut row = Row {
            tenant: self.stage.tenant(self.tenant),
            limit: self.limit,
            what: self.what,
            outcome: Err(String::new()),
            took: Duration::ZERO,
            figures: Default::default(),
            neighbour: None,
        };
        match witnesses {
            Ok((meter, neighbour)) => {
                row.outcome = attack.await;
                row.took = began.elapsed();
                row.figures = meter.finish().await;
                if let Some(neighbour) = neighbour {
                    row.neighbour = Some(neighbour.ask().await);
                }
            }
            Err(error) => row.outcome = Err(format!("there is no witness: {error}")),
        }
        row
    }

    /// One user does the same again and again, and is refused each time.
    pub(super) async fn again(self, ask: Ask) -> Row {
        let (mallory, refusal) = (self.caller(MALLORY), self.refusal);
        let limits = self.stage.limits(self.tenant).clone();
        let attack = async {
            let before = calls(&mallory).await?;
            let mut answers = Vec::new();
            let times = if matches!(ask, Ask::Once(_)) { 1 } else { TIMES };
            for _ in 0..times {
                let answer = match &ask {
                    Ask::Call(input) | Ask::Once(input) => mallory.call(input).await?,
                    Ask::Body(bytes) => mallory.send(Bytes::from(vec![b' '; *bytes])).await?,
                };
                if answer.fuel > limits.fuel_per_call {
                    return Err(format!("it used {} units of fuel", answer.fuel));
                }
                if answer.took > limits.deadline + LATE {
                    return Err(format!("it took {:.1} s", answer.took.as_secs_f64()));
                }
                // One failure is enough.
                refusal.judge(std::slice::from_ref(&answer), 1..=1)?;
                answers.push(answer);
            }
            let stopped = refusal.judge(&answers, times..=times)?;
            let after = calls(&mallory).await.map_err(|why| format!("the attacker's next call: {why}"))?;
            let should = before + 1 + if refusal.is_the_guests() { times as u64 } else { 0 };
            if after != should {
                return Err(format!("the attacker's state was {before} before it, and is {after} after the next call"));
            }
            let late = answers.iter().map(|it| it.took.saturating_sub(limits.deadline)).max().unwrap_or_default();
            Ok(if limits.deadline <= answers[0].took { format!("{stopped}, {} late", told(late)) } else { stopped })
        };
        self.run(attack).await
    }

    /// A guest's table grows, which takes memory that is not linear.
    pub(super) async fn tables(self, elements: usize) -> Row {
        let (mallory, refusal) = (self.caller(MALLORY).of_tables(), self.refusal);
        let attack = async {
            let there = || async {
                let answer = mallory.call(&json!({"elements": 0})).await?;
                answer.body["elements"].as_u64().ok_or_else(|| answer.told())
            };
            let before = there().await?;
            let mut answers = Vec::new();
            for _ in 0..TIMES {
                answers.push(mallory.call(&json!({"elements": elements})).await?);
            }
            let stopped = refusal.judge(&answers, TIMES..=TIMES)?;
            match there().await.map_err(|why| format!("the attacker's next call: {why}"))? {
                after if after == before => Ok(stopped),
                after => Err(format!("the table had {before} elements before it, and has {after}")),
            }
        };
        self.run(attack).await
    }

    /// Calls of one user at once: the first one keeps all others waiting.
    pub(super) async fn queue(self, most: usize) -> Row {
        let (mallory, refusal, stage) = (self.caller(MALLORY), self.refusal, self.stage);
        let attack = async {
            let first = async { mallory.call(&json!({"do": "sleep", "milliseconds": SLEEP})).await };
            let others = async {
                while stage.session(&mallory).is_none_or(|seen| seen.in_use == 0) {
                    sleep(Duration::from_millis(1)).await;
                }
                let count = json!({"do": "count"});
                join_all((0..most + BEYOND).map(|_| mallory.call(&count))).await
            };
            let (first, others) = tokio::join!(first, others);
            let answers: Result<Vec<Reply>, String> = [first].into_iter().chain(others).collect();
            let stopped = refusal.judge(&answers?, BEYOND..=BEYOND)?;
            // All admitted calls have run.
            match calls(&mallory).await.map_err(|why| format!("the next call: {why}"))? {
                count if count == most as u64 + 2 => Ok(stopped),
                count => Err(format!("the function has counted {count} calls")),
            }
        };
        self.run(attack).await
    }

    /// Calls at once, each of another user.
    pub(super) async fn at_once(self, most: usize) -> Row {
        // A caller that waits for a place gets it when another leaves; the number of places is measured instead.
        let refused = if self.is(Limits::MAX_SESSIONS) { 1..=BEYOND + 1 } else { self.beyond(BEYOND) };
        let (refusal, input) = (self.refusal, json!({"do": "sleep", "milliseconds": SLEEP}));
        let callers: Vec<Caller> = (0..most + BEYOND).map(|number| self.caller(CROWD + number)).collect();
        let attack = async {
            let answers = join_all(callers.iter().map(|caller| caller.call(&input))).await;
            let answers: Result<Vec<Reply>, String> = answers.into_iter().collect();
            let stopped = refusal.judge(&answers?, refused)?;
            calls(&callers[0]).await.map_err(|why| format!("the next call: {why}"))?;
            Ok(stopped)
        };
        self.run(attack).await
    }

    /// Users come one after the other, each with the same call; `fit` of them have room.
    pub(super) async fn crowd(self, users: usize, input: Value, fit: usize) -> Row {
        let (refusal, beyond) = (self.refusal, users.saturating_sub(fit));
        // Of memory fewer may fit: an instance takes more than what its guest asks for.
        let refused = match self.limit.key.ends_with("memory") {
            true => beyond..=users,
            false => self.beyond(beyond),
        };
        let callers: Vec<Caller> = (0..users).map(|number| self.caller(CROWD + number)).collect();
        let attack = async {
            let mut answers = Vec::new();
            for caller in &callers {
                answers.push(caller.call(&input).await?);
            }
            refusal.judge(&answers, refused)
        };
        self.run(attack).await
    }

    /// Many users each have memory grow, and write to it in the next call, all of them at once.
    pub(super) async fn reserve_and_write(self, users: usize, bytes: usize, fit: usize) -> Row {
        let refusal = self.refusal;
        let callers: Vec<Caller> = (0..users).map(|number| self.caller(CROWD + number)).collect();
        let attack = async {
            let mut granted = Vec::new();
            let mut answers = Vec::new();
            for caller in &callers {
                let answer = caller.call(&json!({"do": "reserve", "bytes": bytes})).await?;
                if answer.status == 200 {
                    granted.push(caller);
                }
                answers.push(answer);
            }
            let growing = refusal.judge(&answers, 0..=users)?;
            if granted.len() <= fit {
                return Ok(format!("{growing}, when it grew"));
            }
            let write = json!({"do": "overwrite"});
            let answers = join_all(granted.iter().map(|caller| caller.call(&write))).await;
            let answers: Result<Vec<Reply>, String> = answers.into_iter().collect();
            refusal.judge(&answers?, granted.len().saturating_sub(fit)..=granted.len())
        };
        self.run(attack).await
    }

    /// One user takes memory, call by call; `fit` of the calls have room at most.
    pub(super) async fn pile(self, times: usize, input: Value, fit: usize) -> Row {
        let (mallory, refusal) = (self.caller(MALLORY), self.refusal);
        let attack = async {
            let mut answers = Vec::new();
            for _ in 0..times {
                answers.push(mallory.call(&input).await?);
            }
            let stopped = refusal.judge(&answers, times.saturating_sub(fit)..=times)?;
            let served = answers.iter().filter(|answer| answer.status == 200).count() as u64;
            match calls(&mallory).await.map_err(|why| format!("the attacker's next call: {why}"))? {
                count if count == served + 1 => Ok(stopped),
                count => Err(format!("{served} calls were served, and the function has counted {count}")),
            }
        };
        self.run(attack).await
    }

    /// Users with large state write to all of it until their deadlines, which come together.
    pub(super) async fn deadlines_together(self) -> Row {
        let limits = self.stage.limits(self.tenant);
        let (refusal, deadline, bytes) = (self.refusal, limits.deadline, TENTH.min(limits.memory_per_instance / 4));
        let callers: Vec<Caller> = (0..TOGETHER).map(|number| self.caller(CROWD + number)).collect();
        let attack = async {
            let mut before = Vec::new();
            for caller in &callers {
                take(caller, bytes).await?;
                before.push(sum(caller).await?);
            }
            let write = json!({"do": "overwrite", "milliseconds": beyond(deadline)});
            let answers = join_all(callers.iter().map(|caller| caller.call(&write))).await;
            let answers: Vec<Reply> = answers.into_iter().collect::<Result<_, String>>()?;
            let stopped = refusal.judge(&answers, TOGETHER..=TOGETHER)?;
            let last = answers.iter().map(|answer| answer.took).max().unwrap_or_default().saturating_sub(deadline);
            if last > LATE {
                return Err(format!("the last was answered {} after its deadline", told(last)));
            }
            for (caller, before) in callers.iter().zip(before) {
                if sum(caller).await? != before {
                    return Err("state is not as it was before its call".to_owned());
                }
            }
            Ok(format!("{stopped}, the last {} late", told(last)))
        };
        self.run(attack).await
    }

    /// A user with large state crashes, runs, and is parked by turns.
    pub(super) async fn large_state(self) -> Row {
        let bytes = LARGE.min(self.stage.limits(self.tenant).memory_per_instance / 4);
        let (mallory, stage) = (self.caller(MALLORY), self.stage);
        let attack = async {
            take(&mallory, bytes).await?;
            let mut state = sum(&mallory).await?;
            let mut longest = Duration::ZERO;
            let crash = json!({"do": "all", "of": [{"do": "overwrite"}, {"do": "panic"}]});
            for _ in 0..ROUNDS {
                let crashed = mallory.call(&crash).await?;
                Refusal::CRASH.judge(std::slice::from_ref(&crashed), 1..=1)?;
                if sum(&mallory).await? != state {
                    return Err("state is not as it was before a call that crashed".to_owned());
                }
                let written = mallory.call(&json!({"do": "overwrite"})).await?;
                Refusal::CRASH.judge(std::slice::from_ref(&written), 0..=0)?;
                longest = longest.max(crashed.took).max(written.took);
                state = sum(&mallory).await?;
                stage.host().registry().park_idle(Duration::ZERO).await;
                if sum(&mallory).await? != state {
                    return Err("state is not as it was before it was parked".to_owned());
                }
            }
            Ok(format!("its turns, the longest {}", told(longest)))
        };
        self.run(attack).await
    }

    /// The processor time of a unit of fuel while a guest has the host work, in that of a plain loop's.
    pub(super) async fn price(self, input: Value) -> Row {
        let (mallory, refusal) = (self.caller(MALLORY), self.refusal);
        let attack = async {
            take(&mallory, TENTH).await?;
            let cost = || async { cost(&mallory, &json!({"do": "spin"}), refusal).await };
            // The dearer of one before it and one after it: the machine may be busy with other things.
            let before = cost().await?;
            let seen = self::cost(&mallory, &input, refusal).await?;
            let plain = before.max(cost().await?);
            let times = seen / plain;
            match times <= DEAREST {
                true => Ok(format!("{}, a unit as dear as {times:.1} of a loop's", refusal.told())),
                false => {
                    Err(format!("a unit of fuel cost {times:.1} times what it costs in a loop, and may {DEAREST}"))
                }
            }
        };
        self.run(attack).await
    }

    /// A guest looks for a way out.
    pub(super) async fn escape(self) -> Row {
        let mallory = self.caller(MALLORY);
        let attack = async {
            let answer = mallory.call(&json!({"do": "escape"})).await?;
            match answer.body["said"].as_array() {
                Some(found) if found.is_empty() => Ok("nothing was there".to_owned()),
                Some(found) => Err(format!("it found {found:?}")),
                None => Err(answer.told()),
            }
        };
        self.run(attack).await
    }

    /// A user, or users of the tenant, use up a rate, and then wait for as long as `Retry-After` says.
    pub(super) async fn spend(self, rate: Rate, of_user: bool) -> Row {
        let (refusal, is_fuel) = (self.refusal, self.refusal.code == "budget_spent");
        let fuel_per_call = self.stage.limits(self.tenant).fuel_per_call;
        let caller = |number: usize| self.caller(if of_user { MALLORY } else { CROWD + number % 8 });
        let callers: Vec<Caller> = (0..8).map(caller).collect();
        let attack = async {
            let began = Instant::now();
            let input = if is_fuel { json!({"do": "spin"}) } else { json!({"do": "count"}) };
            let most = rate.burst.saturating_mul(2).clamp(20, 1000) as usize;
            let mut used = 0;
            for number in 0..most {
                let caller = &callers[number % callers.len()];
                let answer = caller.call(&input).await?;
                if answer.status != 429 {
                    used += if is_fuel { answer.fuel } else { 1 };
                    continue;
                }
                refusal.judge(std::slice::from_ref(&answer), 1..=1)?;
                // The fuel of a call is known only after it.
                let given = (rate.per_second as f64 * began.elapsed().as_secs_f64()) as u64;
                let may = rate.burst.saturating_add(given).saturating_add(if is_fuel { fuel_per_call } else { 1 });
                if used > may {
                    return Err(format!("{used} were used, and may be {may}"));
                }
                let Some(wait) = answer.retry_after else {
                    return Err("it does not say when to come again".to_owned());
                };
                let stopped = format!("{} after {used}, for {} s", refusal.told(), wait.as_secs());
                if wait > WAIT {
                    return Ok(stopped);
                }
                sleep(wait).await;
                let again = caller.call(&json!({"do": "count"})).await?;
                return match again.status {
                    200 => Ok(format!("{stopped}, which was true")),
                    _ => Err(format!("after the {} s that it said it was refused again", wait.as_secs())),
                };
            }
            Err(format!("{most} calls were let in"))
        };
        self.run(attack).await
    }

    /// A caller opens connections and sends nothing. There is no neighbour, since the limit lets nobody else connect
    /// meanwhile. But a connection must be possible as soon as the attack is over.
    pub(super) async fn connections(self, most: usize) -> Row {
        let (address, alice) = (self.stage.address(), self.caller(ALICE));
        self.stage.clear().await;
        let attack = async {
            let mut open = Vec::new();
            for _ in 0..most + BEYOND {
                open.push(TcpStream::connect(address).await.map_err(|error| error.to_string())?);
            }
            // Those beyond the limit have been told so, and the others wait.
            let mut refused = 0;
            for stream in &mut open {
                let mut answer = vec![0; 1024];
                if let Ok(Ok(bytes)) = timeout(Duration::from_millis(1), stream.read(&mut answer)).await {
                    refused += usize::from(answer[..bytes].starts_with(b"HTTP/1.1 503 "));
                }
            }
            let opened = open.len();
            drop(open);
            if !(BEYOND..=BEYOND + 1).contains(&refused) {
                return Err(format!("{refused} of {opened} were refused, and {BEYOND} should have been"));
            }
            let began = Instant::now();
            while let Err(why) = calls(&alice).await {
                if began.elapsed() > SERVED_WITHIN {
                    return Err(format!("nobody is served after it: {why}"));
                }
                sleep(Duration::from_millis(5)).await;
            }
            Ok(format!("too_many_connections, {refused} of {opened}"))
        };
        self.run_beside(None::<std::future::Pending<_>>, attack).await
    }

    /// A caller sends a malformed request: it is refused, and the connection closed.
    pub(super) async fn malformed(self, shape: &Shape) -> Row {
        let address = self.stage.address();
        let attack = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let (mut read, mut write) = stream.into_split();
            let sending = async {
                let _ = write.write_all(shape.request.as_bytes()).await;
                for _ in 0..shape.more.1 {
                    if write.write_all(shape.more.0.as_bytes()).await.is_err() {
                        break;
                    }
                }
            };
            let mut answer = Vec::new();
            let reading = timeout(Duration::from_secs(10), read.read_to_end(&mut answer));
            let (_, ended) = tokio::join!(sending, reading);
            let text = String::from_utf8_lossy(&answer);
            let line = text.lines().next().unwrap_or_default().to_owned();
            match ended {
                Err(_) => Err(format!("the connection stayed open: {line}")),
                Ok(_) if line.starts_with("HTTP/1.1 2") => Err(format!("it was answered: {line}")),
                Ok(_) if line.is_empty() => Ok("closed".to_owned()),
                Ok(_) => Ok(line),
            }
        };
        self.run(attack).await
    }
}

/// The request that is sent.
pub(super) enum Ask {
    /// An input for the function, several times.
    Call(Value),
    /// Sends it once, where it takes its time.
    Once(Value),
    /// A body of so many bytes, several times.
    Body(usize),
}

/// A malformed request, and its name in the report.
pub(super) struct Shape {
    pub(super) what: &'static str,
    request: &'static str,
    /// The text sent after the request, and its number of repetitions.
    more: (&'static str, usize),
}

/// Malformed requests.
pub(super) const SHAPES: [Shape; 4] = [
    Shape {
        what: "a request with two lengths",
        request: "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 30\r\n\r\n{}\n",
        more: ("", 0),
    },
    Shape {
        what: "a request with a length and chunks",
        request: "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        more: ("", 0),
    },
    Shape { what: "headers without end", request: "GET /health HTTP/1.1\r\n", more: ("x: 0123456789\r\n", 100_000) },
    Shape { what: "a line without end", request: "GET /", more: ("0123456789abcdef", 100_000) },
];

/// The input that takes memory and writes incompressible bytes to it, in one call.
pub(super) fn taking(bytes: usize) -> Value {
    json!({"do": "all", "of": [{"do": "reserve", "bytes": bytes}, {"do": "overwrite"}]})
}

pub(super) fn opening(times: usize) -> Value {
    json!({"do": "open", "path": FILE, "times": times})
}

pub(super) fn listing(times: usize) -> Value {
    json!({"do": "list", "path": FOLDER, "times": times})
}

/// Milliseconds for which a guest that a deadline should stop goes on where it does not.
pub(super) fn beyond(deadline: Duration) -> u64 {
    (deadline * 2 + LATE).as_millis() as u64
}

async fn take(caller: &Caller, bytes: usize) -> Result<(), String> {
    let answer = caller.call(&taking(bytes)).await?;
    if answer.status == 200 { Ok(()) } else { Err(format!("state cannot be made: {}", answer.told())) }
}

/// A sum of all that a caller's instance keeps.
async fn sum(caller: &Caller) -> Result<String, String> {
    let answer = caller.call(&json!({"do": "sum"})).await?;
    answer.body["said"].as_str().map(str::to_owned).ok_or_else(|| format!("state cannot be read: {}", answer.told()))
}

/// The number of calls that the function has counted for a caller.
async fn calls(caller: &Caller) -> Result<u64, String> {
    let answer = caller.call(&json!({"do": "count"})).await?;
    answer.body["calls"].as_u64().ok_or_else(|| answer.told())
}

/// Seconds of processors for a unit of fuel, of a call that uses up what it has.
async fn cost(caller: &Caller, input: &Value, refusal: Refusal) -> Result<f64, String> {
    let before = processor_time();
    let answer = caller.call(input).await?;
    let took = processor_time().saturating_sub(before);
    refusal.judge(std::slice::from_ref(&answer), 1..=1)?;
    Ok(took.as_secs_f64() / answer.fuel.max(1) as f64)
}

/// Waits until the system has taken back freed memory: an attack's reuse of it would not be seen as growth.
async fn settle() {
    let mut before = resident();
    for _ in 0..25 {
        sleep(Duration::from_millis(20)).await;
        let now = resident();
        if now.zip(before).is_none_or(|(now, before)| now + (1 << 20) > before) {
            return;
        }
        before = now;
    }
}

fn told(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
