//! One attack, its witnesses, and what came of it.

use super::{
    Limit,
    report::{Neighbour, Row},
    stage::{Answer, Caller, Stage},
};
use crate::limits::Rate;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Users of a tenant, by their numbers: who attacks, and who notices nothing. The crowd begins behind them.
const MALLORY: usize = 0;
const ALICE: usize = 1;
const CROWD: usize = 2;
/// How often the neighbour calls.
const PACE: Duration = Duration::from_millis(5);
/// How much later than its deadline a call may be answered, on a busy machine.
const LATE: Duration = Duration::from_secs(1);
/// How long a neighbour may wait for an answer.
const LONGEST: Duration = Duration::from_secs(1);

/// A guest, or a caller, of one user.
pub(super) struct Attack {
    pub(super) tenant: usize,
    pub(super) limit: Limit,
    pub(super) what: &'static str,
    pub(super) ask: Ask,
    pub(super) expected: &'static str,
}

/// What is sent.
pub(super) enum Ask {
    /// An input for the hostile function.
    Call(Value),
    /// A body of so many bytes.
    Body(usize),
}

/// Calls at once, all of one user, or each of another one.
pub(super) struct Many {
    pub(super) tenant: usize,
    pub(super) limit: Limit,
    pub(super) what: &'static str,
    pub(super) calls: usize,
    pub(super) of_one: bool,
    pub(super) expected: &'static str,
}

/// What an attack gave: what stopped it, or why nothing did, and how long that took.
type Stopped = Result<(String, Duration), String>;

impl Attack {
    pub(super) async fn run(self, stage: &Stage) -> Row {
        let Self { tenant, limit, what, ask, expected } = self;
        let mallory = stage.caller(tenant, MALLORY);
        let attack = async {
            let before = calls(&mallory).await?;
            let answer = match &ask {
                Ask::Call(input) => mallory.call(input).await?,
                Ask::Body(bytes) => mallory.send(Bytes::from(vec![b' '; *bytes])).await?,
            };
            // Whatever it was that stopped it: it has not had more than it may.
            let limits = stage.limits(tenant);
            if answer.fuel > limits.fuel_per_call {
                return Err(format!("it used {} units of fuel", answer.fuel));
            }
            if answer.took > limits.deadline + LATE {
                return Err(format!("it took {:.1} s", answer.took.as_secs_f64()));
            }
            let stopped = judge(&answer, expected);
            let after = calls(&mallory).await.map_err(|why| format!("the attacker's next call: {why}"))?;
            // What a function says in its own words is no failure: such a call has been.
            let own_words = answer.status == 200 || answer.code == "function_failed";
            match after == before + 1 + u64::from(own_words) {
                true => stopped.map(|by| (by, answer.took)),
                false => {
                    Err(format!("the attacker's state was {before} before it, and is {after} after the next call"))
                }
            }
        };
        row(stage, tenant, stage.beside(tenant), limit, what, attack).await
    }
}

impl Many {
    pub(super) async fn run(self, stage: &Stage) -> Row {
        let Self { tenant, limit, what, calls: at_once, of_one, expected } = self;
        // Long enough for all to arrive meanwhile, and not so long that those who wait pass their deadline.
        let deadline = stage.limits(tenant).deadline.as_millis() as u64;
        let sleep = json!({"do": "sleep", "milliseconds": (deadline / 2).min(1000)});
        let count = json!({"do": "count"});
        let attack = async {
            let began = Instant::now();
            let user = |number| if of_one { MALLORY } else { CROWD + number };
            let all = (0..at_once).map(|number| {
                let caller = stage.caller(tenant, user(number));
                // Of one user the first one keeps all others waiting.
                let input = if of_one && number > 0 { &count } else { &sleep };
                async move {
                    if of_one && number > 0 {
                        tokio::time::sleep(PACE * 4).await;
                    }
                    caller.call(input).await
                }
            });
            let mut stopped = Err("all of them were let in".to_owned());
            for answer in join_all(all).await {
                let answer = answer?;
                if answer.code == expected || (answer.status != 200 && stopped.is_err()) {
                    stopped = judge(&answer, expected);
                }
            }
            calls(&stage.caller(tenant, user(0))).await.map_err(|why| format!("the next call: {why}"))?;
            stopped.map(|by| (by, began.elapsed()))
        };
        row(stage, tenant, stage.beside(tenant), limit, what, attack).await
    }
}

/// Users of a tenant come one after the other, each with the same call, until one is refused.
pub(super) async fn crowd(
    stage: &Stage,
    tenant: usize,
    limit: Limit,
    users: usize,
    input: Value,
    expected: &'static str,
) -> Row {
    let attack = async {
        let began = Instant::now();
        for number in 0..users {
            let answer = stage.caller(tenant, CROWD + number).call(&input).await?;
            if answer.status != 200 {
                return judge(&answer, expected).map(|by| (by, began.elapsed()));
            }
        }
        // Where idle sessions are parked to make room, nobody has to be refused: then the limit held that way.
        match stage.parked(tenant) {
            0 => Err(format!("{users} users were let in")),
            parked => Ok((format!("{parked} idle sessions were parked"), began.elapsed())),
        }
    };
    row(stage, tenant, stage.beside(tenant), limit, "users of the tenant come one after the other", attack).await
}

/// One user takes memory, call by call, until it is refused.
pub(super) async fn pile(
    stage: &Stage,
    tenant: usize,
    limit: Limit,
    input: Value,
    bytes: usize,
    expected: &'static str,
) -> Row {
    let mallory = stage.caller(tenant, MALLORY);
    let attack = async {
        let began = Instant::now();
        for _ in 0..bytes / (1 << 20) + 2 {
            let answer = mallory.call(&input).await?;
            if answer.status != 200 {
                let stopped = judge(&answer, expected)?;
                calls(&mallory).await.map_err(|why| format!("the attacker's next call: {why}"))?;
                return Ok((stopped, began.elapsed()));
            }
        }
        Err("nothing stopped it".to_owned())
    };
    row(stage, tenant, stage.beside(tenant), limit, "a user's guests take memory call by call", attack).await
}

/// A guest looks for a way out.
pub(super) async fn escape(stage: &Stage, tenant: usize) -> Row {
    let mallory = stage.caller(tenant, MALLORY);
    let attack = async {
        let answer = mallory.call(&json!({"do": "escape"})).await?;
        match answer.body["said"].as_array() {
            Some(found) if found.is_empty() => Ok(("nothing was there".to_owned(), answer.took)),
            Some(found) => Err(format!("it found {found:?}")),
            None => judge(&answer, "function_crashed").map(|by| (by, answer.took)),
        }
    };
    let limit = Limit { key: "the sandbox", value: "closed".into(), lowered: None };
    let what = "a guest looks for files, environment, sockets";
    row(stage, tenant, stage.beside(tenant), limit, what, attack).await
}

/// A user, or users of the tenant, use what they may over time, and then wait for as long as they are told.
pub(super) async fn spend(
    stage: &Stage,
    tenant: usize,
    limit: Limit,
    rate: Rate,
    of_user: bool,
    expected: &'static str,
) -> Row {
    let what = if of_user { "a user uses up what there is" } else { "users of the tenant use up what there is" };
    let attack = async {
        let began = Instant::now();
        let input = if expected == "budget_spent" { json!({"do": "spin"}) } else { json!({"do": "count"}) };
        // A call a request, or each call all the fuel of one; whichever comes first.
        let most = rate.burst.saturating_mul(2).clamp(20, 4000);
        for number in 0..most {
            let user = if of_user { MALLORY } else { CROWD + number as usize % 8 };
            let caller = stage.caller(tenant, user);
            let answer = caller.call(&input).await?;
            if answer.status != 429 {
                continue;
            }
            let stopped = judge(&answer, expected)?;
            let Some(wait) = answer.retry_after else { return Err("it does not say when to come again".to_owned()) };
            let told = began.elapsed();
            if wait > Duration::from_secs(20) {
                return Ok((format!("{stopped}, for {} s", wait.as_secs()), told));
            }
            sleep(wait).await;
            let again = caller.call(&json!({"do": "count"})).await?;
            return match again.status {
                200 => Ok((format!("{stopped}, for {} s, which was true", wait.as_secs()), told)),
                _ => Err(format!("after the {} s that it said it was refused again", wait.as_secs())),
            };
        }
        Err(format!("{most} calls were let in"))
    };
    // A tenant's own users do notice that it has used up what it may.
    let beside = stage.beside(tenant);
    row(stage, tenant, beside, limit, what, attack).await
}

/// Somebody opens connections and says nothing.
pub(super) async fn connections(stage: &Stage, limit: Limit, most: usize) -> Row {
    let attack = async {
        let began = Instant::now();
        let mut open = Vec::new();
        for _ in 0..most + 8 {
            let opened = TcpStream::connect(stage.address()).await.map_err(|error| error.to_string())?;
            open.push(opened);
        }
        // Those who were turned away have been told so.
        let mut told = 0;
        for stream in open.iter_mut().rev().take(16) {
            let mut answer = vec![0; 1024];
            if let Ok(Ok(bytes)) = timeout(Duration::from_millis(50), stream.read(&mut answer)).await {
                told += usize::from(answer[..bytes].starts_with(b"HTTP/1.1 503 "));
            }
        }
        drop(open);
        sleep(Duration::from_millis(100)).await;
        match told {
            0 => Err("all of them were let in".to_owned()),
            _ => Ok((format!("too_many_connections, {told} times"), began.elapsed())),
        }
    };
    let what = "a caller opens connections and says nothing";
    // Nobody gets a connection meanwhile: that is what the limit says.
    let began = Instant::now();
    let stopped = attack.await;
    done(stage.tenant(0), limit, what, stopped, began.elapsed(), Neighbour::default())
}

/// A request that is none, and what it is called.
pub(super) struct Shape {
    what: &'static str,
    request: &'static str,
    /// What is sent after it again and again, so many times.
    more: (&'static str, usize),
}

/// Requests that are none.
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

/// Somebody sends what is no request: it is refused, and the connection closed.
pub(super) async fn malformed(stage: &Stage, shape: Shape) -> Row {
    let attack = async {
        let began = Instant::now();
        let stream = TcpStream::connect(stage.address()).await.map_err(|error| error.to_string())?;
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
            Ok(_) if line.is_empty() => Ok(("closed".to_owned(), began.elapsed())),
            Ok(_) => Ok((line, began.elapsed())),
        }
    };
    let limit = Limit { key: "the edge", value: "HTTP/1.1".into(), lowered: None };
    row(stage, 0, stage.beside(0), limit, shape.what, attack).await
}

/// How many calls the function has counted for a caller.
async fn calls(caller: &Caller) -> Result<u64, String> {
    let answer = caller.call(&json!({"do": "count"})).await?;
    let refused = || format!("it was answered {} {}: {}", answer.status, answer.code, answer.body["detail"]);
    answer.body["calls"].as_u64().ok_or_else(refused)
}

/// What stopped an attack: what was expected, or another limit that comes first.
fn judge(answer: &Answer, expected: &str) -> Result<String, String> {
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    if answer.code == expected || (answer.status != 200 && detail.contains(expected)) {
        return Ok(expected.to_owned());
    }
    match answer.status {
        200 => Err("nothing stopped it".to_owned()),
        _ if !answer.setting.is_empty() => Ok(format!("{} first, by {}", answer.code, answer.setting)),
        status => Err(format!("it was answered {status} {}: {detail}", answer.code)),
    }
}

/// Runs an attack while a neighbour calls.
async fn row(
    stage: &Stage,
    tenant: usize,
    beside: usize,
    limit: Limit,
    what: &'static str,
    attack: impl Future<Output = Stopped>,
) -> Row {
    stage.clear();
    let over = Arc::new(AtomicBool::new(false));
    let neighbour = tokio::spawn(call_until(stage.caller(beside, ALICE), over.clone()));
    let began = Instant::now();
    let stopped = attack.await;
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let neighbour =
        neighbour.await.unwrap_or_else(|error| Neighbour { wrong: Some(error.to_string()), ..Neighbour::default() });
    // A neighbour of the same tenant, or of the same host, is refused with it, which is what the limit says.
    let of_host = ["limits.calls", "limits.max_sessions", "limits.memory"].contains(&limit.key);
    let shared = of_host
        || (beside == tenant && limit.key.contains("_per_second"))
        || (beside == tenant && limit.key.starts_with("limits.tenant."));
    let neighbour = if shared { Neighbour { wrong: None, ..neighbour } } else { neighbour };
    done(stage.tenant(tenant), limit, what, stopped, took, neighbour)
}

fn done(
    tenant: String,
    limit: Limit,
    what: &'static str,
    stopped: Stopped,
    took: Duration,
    neighbour: Neighbour,
) -> Row {
    match stopped {
        Ok((stopped_by, took)) => Row { tenant, limit, what, stopped_by, took, neighbour, wrong: None },
        Err(why) => Row { tenant, limit, what, stopped_by: "nothing".into(), took, neighbour, wrong: Some(why) },
    }
}

/// Calls again and again, and looks at each answer.
async fn call_until(alice: Caller, over: Arc<AtomicBool>) -> Neighbour {
    let mut seen = Neighbour::default();
    let mut last = None;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        match calls(&alice).await {
            Ok(count) if last.is_none_or(|last: u64| count == last + 1) => last = Some(count),
            Ok(count) => seen.wrong = Some(format!("a neighbour's count went to {count} after {last:?}")),
            Err(why) => seen.wrong = Some(format!("a neighbour's call: {why}")),
        }
        seen.answers += 1;
        seen.longest = seen.longest.max(began.elapsed());
        if seen.longest > LONGEST {
            seen.wrong = Some(format!("a neighbour waited for {:.1} s", seen.longest.as_secs_f64()));
        }
        sleep(PACE).await;
    }
    seen
}
