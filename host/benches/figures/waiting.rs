//! The waits of others: for an answer to `/health`, and for one of their own functions.

use crate::{
    Result,
    client::{self, Connection, Waited},
    live::ALL_THREE,
    load::Load,
    plan::Plan,
    report::{Id, Report, count},
    server::Server,
    stop,
};
use carrel_tests::{Test, key};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const HEALTH: (&str, &str, &str) = ("GET", "/health", "");
pub(crate) const STATS: (&str, &str, &str) = ("POST", "/generate", r#"{"command":"stats"}"#);
pub(crate) const SPIN: (&str, &str, &str) = ("POST", "/hostile", r#"{"do":"spin"}"#);
const SPINNING: u64 = 100;
/// The interval between requests.
const PACE: Duration = Duration::from_millis(1);
const PACE_OF_TWO: Duration = Duration::from_millis(2);
/// The first time of the spinning, which is counted separately: all spinners come at once.
pub(crate) const BEGINNING: Duration = Duration::from_millis(300);
const QUIET: Duration = Duration::from_secs(1);
/// The interval of looking for parked and dropped users.
const LOOK: Duration = Duration::from_millis(10);
/// The time allowed for parking all users, and for dropping all, after it should have begun.
const TAKES: Duration = Duration::from_secs(120);

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    while_guests_spin(plan, report)?;
    while_users_are_parked_and_dropped(plan, report)
}

/// The waits of a user of the tenant `quiet` who asks for `stats` for so long.
pub(crate) fn ask_quiet(address: SocketAddr, time: Duration) -> Result<Vec<Waited>> {
    client::block_on(async {
        let connection = Connection::open_with_key(address, &key("quiet", 0)).await?;
        let end = Instant::now() + time;
        client::ask_steadily(connection, STATS, PACE_OF_TWO, || Instant::now() > end).await
    })
}

fn while_guests_spin(plan: &Plan, report: &mut Report) -> Result<()> {
    let deadline = format!("{}ms", plan.spin.as_millis());
    let config = Test::hostile().set("limits.deadline", deadline).set("limits.fuel_per_call", "1000000G");
    let server = Server::carrel("spinning", &config)?;
    let address = server.address;
    for (what, asked) in [("`/health`", HEALTH), ("`stats`", STATS)] {
        let end = Instant::now() + QUIET;
        let quiet = ask(address, asked, PACE_OF_TWO, &|| Instant::now() > end)?;
        report.latency(row("nobody else is there", what, &quiet));
    }
    let over = AtomicBool::new(false);
    let began = Instant::now();
    // They all end together, and from then on nobody spins.
    let end = began + plan.spin - Duration::from_millis(100);
    let until = || over.load(Ordering::Relaxed) || Instant::now() > end;
    let (health, stats) = thread::scope(|scope| {
        let spinning = scope.spawn(|| {
            let spun = spin(address);
            over.store(true, Ordering::Relaxed);
            spun
        });
        let health = scope.spawn(|| ask(address, HEALTH, PACE_OF_TWO, &until));
        let stats = ask(address, STATS, PACE_OF_TWO, &until);
        let panicked = |_| Err("a thread panicked".to_owned());
        spinning.join().unwrap_or_else(panicked)?;
        Ok::<_, String>((health.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))?, stats?))
    })?;
    let others = "`stats` of another user";
    let (new, old) = split(&stats, began + BEGINNING);
    report.measured(Id::Spinning, at(&old, 990), "");
    let (new_health, old_health) = split(&health, began + BEGINNING);
    report.latency(row("100 guests have just begun to spin", "`/health`", &new_health));
    report.latency(row("100 guests have just begun to spin", others, &new));
    report.latency(row("100 guests spin", "`/health`", &old_health));
    report.latency(row("100 guests spin", others, &old));
    Ok(())
}

/// Splits requests into those before a time, and those from then on.
fn split(waited: &[Waited], at: Instant) -> (Vec<Waited>, Vec<Waited>) {
    waited.iter().partition(|one| one.from < at)
}

/// Lets a hundred users' guests spin until their deadline.
fn spin(address: SocketAddr) -> Result<()> {
    client::block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for user in 1..=SPINNING {
            all.spawn(async move {
                let (method, path, body) = SPIN;
                let mut connection = Connection::open(address).await?;
                let answer = connection.ask(method, path, user, body).await?;
                let expected = answer.status == 504;
                if expected { Ok(()) } else { Err(format!("{path} was answered {}: {}", answer.status, answer.text())) }
            });
        }
        while let Some(done) = all.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(())
    })
}

fn while_users_are_parked_and_dropped(plan: &Plan, report: &mut Report) -> Result<()> {
    // Nobody may be parked before all are there.
    let making = time_to_make(plan.idle)?.mul_f64(1.5) + Duration::from_secs(5);
    // Users are parked in a few strokes, of which the last one comes some seconds after the first.
    let parking = Duration::from_secs(15 + plan.idle / 2500);
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let config = Test::new()
        .set("limits.max_sessions", plan.idle + 100)
        .set("sessions.park_after", milliseconds(making))
        .set("general.per_user_workflow_timeout", milliseconds(making + parking))
        .set("general.per_user_workflow_cleanup_interval", "5s");
    let server = Server::carrel("idle", &config)?;
    let made = make(&server, plan.idle, ALL_THREE)?;
    // One more call of each, so that all are idle since about the same time.
    make(&server, plan.idle, &ALL_THREE[2..])?;
    let [parked] = server.metrics(["sessions_parked"])?;
    eprintln!("{} users in {:.1} s, {parked} of them are parked already", count(plan.idle), made.as_secs_f64());

    let address = server.address;
    let over = AtomicBool::new(false);
    let (health, seen) = thread::scope(|scope| {
        let health = scope.spawn(|| ask(address, HEALTH, PACE, &|| over.load(Ordering::Relaxed)));
        let seen = look(address, plan.idle, making + parking + TAKES);
        over.store(true, Ordering::Relaxed);
        let health = health.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()));
        Ok::<_, String>((health?, seen?))
    })?;
    let during = |within: &dyn Fn(&Seen, &Seen) -> bool| {
        let spans = seen.windows(2).filter(|pair| within(&pair[0], &pair[1]));
        let spans: Vec<_> = spans.map(|pair| (pair[0].at, pair[1].at)).collect();
        let inside = |one: &&Waited| spans.iter().any(|(from, to)| one.from < *to && one.from + one.took > *from);
        let time: Duration = spans.iter().map(|(from, to)| *to - *from).sum();
        (health.iter().filter(inside).copied().collect::<Vec<_>>(), format!("{:.1} s", time.as_secs_f64()))
    };
    let idle = count(plan.idle);
    let (quiet, _) = during(&|before, after| before.live == after.live && before.parked == after.parked);
    report.latency(row(&format!("{idle} idle users, nothing is done to them"), "`/health`", &quiet));
    let (parking, took) = during(&|before, after| after.live < before.live);
    report.latency(row(&format!("{idle} idle users are parked, which takes {took}"), "`/health`", &parking));
    report.measured(Id::HealthParking, at(&parking, 990), "");
    let (dropping, took) = during(&|before, after| after.live + after.parked < before.live + before.parked);
    report.latency(row(&format!("{idle} parked users are dropped, which takes {took}"), "`/health`", &dropping));
    report.measured(Id::HealthDropping, at(&dropping, 990), "");
    Ok(())
}

/// Estimates the time to make so many users from a few of them.
fn time_to_make(users: u64) -> Result<Duration> {
    let few = users.min(2000);
    let server = Server::carrel("trial", &Test::new())?;
    let took = make(&server, few, ALL_THREE)? + make(&server, few, &ALL_THREE[2..])?;
    Ok(took.mul_f64(users as f64 / few as f64))
}

fn make(server: &Server, users: u64, calls: &'static [&'static str]) -> Result<Duration> {
    // The user 0 is the one who asks for `/health`.
    Ok(Load { server, from: 1, users, calls, turns: users, time: Duration::ZERO }.run()?.took)
}

/// The number of users at a time.
struct Seen {
    at: Instant,
    live: u64,
    parked: u64,
}

/// Records the users' number until the last one is dropped.
fn look(address: SocketAddr, users: u64, limit: Duration) -> Result<Vec<Seen>> {
    let end = Instant::now() + limit;
    client::block_on(async {
        let mut connection = Connection::open(address).await?;
        let mut seen: Vec<Seen> = Vec::new();
        loop {
            stop::check()?;
            let at = Instant::now();
            let [live, parked] = connection.metrics(["sessions_live", "sessions_parked"]).await?;
            seen.push(Seen { at, live, parked });
            if live + parked == 0 {
                return Ok(seen);
            }
            if Instant::now() > end {
                return Err(format!("of {} users {live} are live and {parked} parked still", count(users)));
            }
            thread::sleep(LOOK);
        }
    })
}

fn ask(
    address: SocketAddr,
    what: (&str, &str, &str),
    every: Duration,
    until: &dyn Fn() -> bool,
) -> Result<Vec<Waited>> {
    let waited = client::block_on(async {
        let connection = Connection::open(address).await?;
        client::ask_steadily(connection, what, every, until).await
    })?;
    if waited.is_empty() { Err(format!("{} was never answered", what.1)) } else { Ok(waited) }
}

/// The milliseconds within which so many of a thousand answers came.
pub(crate) fn at(waited: &[Waited], of_thousand: usize) -> f64 {
    let mut took: Vec<_> = waited.iter().map(|one| one.took).collect();
    took.sort_unstable();
    took.get(took.len().saturating_sub(1) * of_thousand / 1000).map_or(f64::NAN, |it| it.as_secs_f64() * 1e3)
}

pub(crate) fn row(when: &str, what: &str, waited: &[Waited]) -> String {
    let times = [500, 990, 1000].map(|part| format!("{:.2}", at(waited, part)));
    format!("| {when} | {what} | {} | {} |", waited.len(), times.join(" | "))
}
