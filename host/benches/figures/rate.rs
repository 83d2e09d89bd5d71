//! Checks that a tenant gets its allowed fuel a second, and that refusals give the right time to come back.

use crate::{
    Result,
    client::{self, Connection},
    plan::Plan,
    report::{Id, Report},
    server::Server,
    stop,
    waiting::STATS,
};
use carrel_tests::{Test, key};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// Units of fuel a second: a tenth of what a thread can use.
const RATE: u64 = 50_000_000;
/// Users that ask all the time.
const USERS: usize = 4;
/// The pause of a refused user before the next try, whatever the refusal says.
const AGAIN: Duration = Duration::from_millis(5);
/// The time by which saved-up fuel is used.
const BEFORE: Duration = Duration::from_secs(2);
/// Work that takes several seconds of the rate.
const WORK: &str = r#"{"do":"work","milliseconds":100}"#;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = Test::hostile().tenant("limited", 1, USERS);
    let config = config.set("tenants.limited.limits.tenant.fuel_per_second", RATE);
    let config = config.set("tenants.limited.limits.tenant.fuel_burst", RATE);
    let server = Server::carrel("rate", &config)?;
    let used = client::block_on(asked(server.address, plan.rate))?;
    let got = used as f64 / plan.rate.as_secs_f64() / RATE as f64;
    let note = format!("{:.1} s, {:.3} times the rate", plan.rate.as_secs_f64(), got);
    report.measured(Id::Rate, got.max(1.0 / got), note);
    let (told, waited) = client::block_on(told(server.address))?;
    let note = format!("it was told {told} s, and was let in after {:.2} s", waited.as_secs_f64());
    report.measured(Id::RetryAfter, (told as f64 - waited.as_secs_f64()).abs(), note);
    Ok(())
}

/// The units that all users together get in this time.
async fn asked(address: SocketAddr, time: Duration) -> Result<u64> {
    let from = Instant::now() + BEFORE;
    let until = from + time;
    let mut all = JoinSet::new();
    for user in 0..USERS {
        all.spawn(async move {
            let mut connection = Connection::open_with_key(address, &key("limited", user)).await?;
            let mut used = 0;
            while Instant::now() < until {
                stop::check()?;
                let (method, path, body) = STATS;
                let answer = connection.ask(method, path, 0, body).await?;
                match answer.status {
                    200 if Instant::now() >= from => used += answer.fuel.ok_or("an answer without a bill")?,
                    200 => {}
                    429 => sleep(AGAIN).await,
                    other => return Err(format!("{path} was answered {other}: {}", answer.text())),
                }
            }
            Ok::<_, String>(used)
        });
    }
    let mut sum = 0;
    while let Some(used) = all.join_next().await {
        sum += used.map_err(|error| error.to_string())??;
    }
    Ok(sum)
}

/// The wait, in seconds, that an overdrawn user is told, and the real wait.
async fn told(address: SocketAddr) -> Result<(u64, Duration)> {
    let mut connection = Connection::open_with_key(address, &key("limited", 0)).await?;
    // The others have used up the budget.
    while connection.ask("POST", "/hostile", 0, WORK).await?.status == 429 {
        stop::check()?;
        sleep(AGAIN).await;
    }
    let (mut first, (method, path, body)) = (None, STATS);
    loop {
        stop::check()?;
        let answer = connection.ask(method, path, 0, body).await?;
        match (answer.status, first) {
            (429, None) => first = Some((answer.retry_after.ok_or("a refusal without Retry-After")?, Instant::now())),
            (429, Some(_)) => {}
            (200, Some((told, since))) => return Ok((told, since.elapsed())),
            (status, _) => return Err(format!("{path} was answered {status}: {}", answer.text())),
        }
        sleep(AGAIN).await;
    }
}
