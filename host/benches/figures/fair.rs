//! The effect on a tenant of another one whose guests spin.

use crate::{
    Result,
    client::{self, Connection},
    median,
    plan::Plan,
    report::{Id, Report},
    server::Server,
    stop,
    waiting::{BEGINNING, SPIN, ask_quiet, at, row},
};
use carrel_tests::{Test, key};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

const SPINNING: usize = 100;
/// Users of each tenant that compute. Their first ticks, for which nobody needs a permit, must not count.
const COMPUTING: usize = 10;
/// The pause after a tenant has gone away.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest that a guest of [`beside`] may spin. Its user calls again at once.
const DEADLINE: &str = "2s";

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    beside(plan, report)?;
    shares(plan, report)
}

/// Measures a user who asks for `stats`, in turns alone and beside a tenant whose guests spin.
fn beside(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = Test::hostile().tenant("noisy", 1, SPINNING).tenant("quiet", 1, 1);
    let config = config.set("limits.deadline", DEADLINE).set("limits.fuel_per_call", "1000000G");
    let server = Server::carrel("two tenants", &config)?;
    let (mut alone, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // Warms up: makes the instances, and does all other one-time work.
    ask_quiet(server.address, PAUSE)?;
    for _ in 0..plan.rounds {
        let before = ask_quiet(server.address, plan.round)?;
        let over = AtomicBool::new(false);
        let meanwhile = thread::scope(|scope| {
            let spinning = scope.spawn(|| spin_until(server.address, &over));
            thread::sleep(BEGINNING);
            let meanwhile = ask_quiet(server.address, plan.round);
            over.store(true, Ordering::Relaxed);
            spinning.join().unwrap_or_else(|_| Err("a thread panicked".into()))?;
            meanwhile
        })?;
        thread::sleep(PAUSE);
        ratios.push(at(&meanwhile, 990) / at(&before, 990));
        eprintln!("p99: {:.3} ms alone, {:.3} ms beside", at(&before, 990), at(&meanwhile, 990));
        alone.extend(before);
        beside.extend(meanwhile);
    }
    report.latency(row("a tenant is alone", "`stats`", &alone));
    report.latency(row("100 users of another tenant spin, again and again", "`stats`", &beside));
    report.measured(Id::BesideSpinning, median(ratios), format!("{:.2} ms alone", at(&alone, 990)));
    Ok(())
}

/// All users of a tenant let their guests spin, again and again. Then they go away.
fn spin_until(address: SocketAddr, over: &AtomicBool) -> Result<()> {
    client::block_on(async {
        let mut all = JoinSet::new();
        for user in 0..SPINNING {
            all.spawn(async move {
                let mut connection = Connection::open_with_key(address, &key("noisy", user)).await?;
                loop {
                    spin(&mut connection).await?;
                }
            });
        }
        while !over.load(Ordering::Relaxed) {
            stop::check()?;
            sleep(Duration::from_millis(10)).await;
            if let Some(ended) = all.try_join_next() {
                return ended.unwrap_or_else(|error| Err(error.to_string()));
            }
        }
        Ok(())
    })
}

/// All users of two tenants, whose shares are not alike, compute for as long.
fn shares(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = Test::hostile().tenant("one", 1, COMPUTING).tenant("three", 3, COMPUTING);
    let config = config.set("limits.deadline", "60s").set("limits.fuel_per_call", "1000000G");
    let server = Server::carrel("shares", &config)?;
    let address = server.address;
    let work = format!(r#"{{"do":"work","milliseconds":{}}}"#, plan.spin.as_millis());
    let [one, three] = client::block_on(async {
        let mut all = JoinSet::new();
        for user in 0..COMPUTING {
            for (number, tenant) in ["one", "three"].into_iter().enumerate() {
                let work = work.clone();
                all.spawn(async move {
                    let mut connection = Connection::open_with_key(address, &key(tenant, user)).await?;
                    let answer = connection.ask("POST", "/hostile", 0, &work).await?;
                    let unexpected = || format!("{work} was answered {}: {}", answer.status, answer.text());
                    Ok::<_, String>((number, answer.fuel.filter(|_| answer.status == 200).ok_or_else(unexpected)?))
                });
            }
        }
        let mut fuel = [0, 0];
        while let Some(ended) = all.join_next().await {
            let (number, used) = ended.map_err(|error| error.to_string())??;
            fuel[number] += used;
        }
        Ok(fuel)
    })?;
    let ratio = three as f64 / one as f64;
    report.measured(Id::Shares, (ratio / 3.0).max(3.0 / ratio), format!("{ratio:.2} times as much"));
    Ok(())
}

/// A guest spins until its deadline.
async fn spin(connection: &mut Connection) -> Result<()> {
    let (method, path, body) = SPIN;
    let answer = connection.ask(method, path, 0, body).await?;
    let expected = answer.status == 504;
    if expected { Ok(()) } else { Err(format!("{path} was answered {}: {}", answer.status, answer.text())) }
}
