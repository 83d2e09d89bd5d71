//! The cost of large state: calls of users whose guests hold 60 MiB, beside those of users whose guests hold little.

use crate::{
    Result,
    client::{self, Connection, Waited},
    median,
    plan::Plan,
    report::{Id, Report},
    server::{Cpu, Server},
    stop,
    waiting::{ask_quiet, at, row},
};
use carrel_tests::{Test, key};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::Barrier, task::JoinSet};

/// The users of one server: one holds little, the other 60 MiB.
const SMALL: u64 = 1;
const LARGE: u64 = 2;
// Orders for `tests/guests/framed/large.wat`, which takes no spaces.
const WRITE: &str = "[1,65536,1,8,1]";
const WRITE_ALL: &str = "[1,65536,15344,4096,7]";
const SUM: &str = "[2,65536,15344,4096]";
const TEN_PAGES: &str = "[1,1000000,10,4096,5]";
const TEN_PAGES_AND_TRAP: &str = "[1,1000000,10,4096,5,\"trap\"]";
const FILL_AND_TRAP: &str = "[5,65536,62000000,9,\"trap\"]";
const WRITE_ALL_AND_SPIN: &str = "[6,65536,15344,4096,9]";

/// Calls that are timed together.
const BLOCK: usize = 20;
/// Times that each instance is parked and woken.
const PARKINGS: usize = 12;
/// The number of users whose deadlines come together, and the deadline.
const TOGETHER: usize = 10;
const DEADLINE: Duration = Duration::from_secs(3);
/// The memory limit of the attacked process.
const LIMIT: u64 = 256 << 20;
const SAMPLE: Duration = Duration::from_millis(2);

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let server = Server::carrel("large", &config())?;
    calls(plan, report, &server, Id::LargeCall)?;
    undo(plan, report, &server)?;
    drop(server);
    let server = Server::confined("large, without userfaultfd", &config())?;
    calls(plan, report, &server, Id::LargeCallConfined)?;
    drop(server);
    held(report)?;
    beside(plan, report)?;
    deadlines(plan, report)?;
    resident(report)
}

fn config() -> Test {
    Test::fixture("large").set("limits.fuel_per_call", "1000000G").set("limits.deadline", "60s")
}

/// The CPU of a call that writes a word.
fn calls(plan: &Plan, report: &mut Report, server: &Server, id: Id) -> Result<()> {
    let [small, large] = in_turns(plan, server, &[WRITE])?;
    let how = if server.said("may not use userfaultfd") { "without userfaultfd" } else { "with userfaultfd" };
    report.measured(id, large / small, format!("{large:.0} us, {small:.0} us, {how}"));
    Ok(())
}

/// The CPU of a call that fails after it has written ten pages, and of the next one, above that of two of the other user.
fn undo(plan: &Plan, report: &mut Report, server: &Server) -> Result<()> {
    let [_, failing] = in_turns(plan, server, &[TEN_PAGES_AND_TRAP, WRITE])?;
    let [small, _] = in_turns(plan, server, &[WRITE, WRITE])?;
    report.measured(
        Id::LargeUndo,
        (failing - small) / 1e3,
        format!("{failing:.0} us for both calls, {small:.0} us for two others"),
    );
    Ok(())
}

/// Microseconds of CPU for these calls, of the user who holds little and of the one who holds much.
fn in_turns(plan: &Plan, server: &Server, calls: &[&str]) -> Result<[f64; 2]> {
    client::block_on(async {
        let mut connection = Connection::open(server.address).await?;
        expect(&mut connection, LARGE, WRITE_ALL).await?;
        let sum = connection.ask("POST", "/it", LARGE, SUM).await?.text();
        if !sum.contains("107408") {
            return Err(format!("60 MiB were not written: {sum}"));
        }
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..plan.blocks.div_ceil(BLOCK) + 2 {
            for (index, user) in [SMALL, LARGE].into_iter().enumerate() {
                stop::check()?;
                let before = server.cpu()?;
                for _ in 0..BLOCK {
                    for call in calls {
                        expect(&mut connection, user, call).await?;
                    }
                }
                // The first ones make the instances.
                if round >= 2 {
                    took[index].push(each(&server.cpu()?, &before));
                }
            }
        }
        Ok(took.map(median))
    })
}

fn each(now: &Cpu, before: &Cpu) -> f64 {
    now.since(before).as_secs_f64() * 1e6 / BLOCK as f64
}

/// A call that ends well, or traps if it says so.
async fn expect(connection: &mut Connection, user: u64, call: &str) -> Result<()> {
    let answer = connection.ask("POST", "/it", user, call).await?;
    let expected = if call.contains("trap") { 500 } else { 200 };
    if answer.status == expected {
        return Ok(());
    }
    Err(format!("{call} was answered {}: {}", answer.status, answer.text()))
}

/// The time for which parking and waking hold a thread: the longest one that another task of the same thread does not run.
fn held(report: &mut Report) -> Result<()> {
    let (parking, waking) = client::block_on(async {
        let server = config().set("sessions.park_after", "1h").start().await;
        let user = server.user("somebody").at("/it");
        let longest = Arc::new(AtomicU64::new(0));
        let ticking = tokio::spawn(tick(longest.clone()));
        let (mut parking, mut waking) = (Vec::new(), Vec::new());
        for _ in 0..PARKINGS {
            stop::check()?;
            let reply = user.body(WRITE_ALL).await;
            if reply.status != 200 {
                return Err(format!("{WRITE_ALL} was answered {reply:?}"));
            }
            for (what, took) in [(true, &mut parking), (false, &mut waking)] {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                longest.store(0, Ordering::Relaxed);
                if what {
                    server.park().await;
                } else {
                    user.body(WRITE).await;
                }
                tokio::task::yield_now().await;
                took.push(longest.load(Ordering::Relaxed) as f64 / 1e6);
            }
        }
        ticking.abort();
        Ok((median(parking), median(waking)))
    })?;
    report.measured(Id::LargeHeld, parking.max(waking), format!("{parking:.2} ms, {waking:.2} ms"));
    Ok(())
}

/// Notes the longest time for which this task does not run, in nanoseconds.
async fn tick(longest: Arc<AtomicU64>) {
    let mut last = Instant::now();
    loop {
        tokio::task::yield_now().await;
        longest.fetch_max(last.elapsed().as_nanos() as u64, Ordering::Relaxed);
        last = Instant::now();
    }
}

/// The waits of a tenant beside three users of another one who hold 60 MiB each, of which there is room for two: they write
/// to all of it, fail, and are parked and woken by turns.
fn beside(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = config().tenant("noisy", 1, 3).tenant("quiet", 1, 1);
    let config = config.set("tenants.noisy.limits.tenant.memory", "300 MiB");
    let server = Server::carrel("large, two tenants", &config)?;
    let (mut ordinary, mut large) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        ordinary.extend(while_three(&server, plan.round, &[WRITE])?);
        large.extend(while_three(&server, plan.round, &[WRITE_ALL, TEN_PAGES_AND_TRAP, FILL_AND_TRAP, TEN_PAGES])?);
    }
    let (usual, ratio) = (at(&ordinary, 990), at(&large, 990) / at(&ordinary, 990));
    let asked = "`stats` of another tenant";
    report.latency(row("three users call ordinary functions", asked, &ordinary));
    report.latency(row("three users with 60 MiB write, fail, are parked and woken", asked, &large));
    report.measured(Id::BesideLarge, ratio, format!("{usual:.2} ms beside ordinary calls"));
    Ok(())
}

/// The waits of a user of the quiet tenant while three of the other one make these calls, again and again.
fn while_three(server: &Server, time: Duration, calls: &[&'static str]) -> Result<Vec<Waited>> {
    let (address, over) = (server.address, AtomicBool::new(false));
    let over = &over;
    thread::scope(|scope| {
        let noisy: Vec<_> = (0..3)
            .map(|user| {
                scope.spawn(move || {
                    client::block_on(async {
                        let mut connection = Connection::open_with_key(address, &key("noisy", user)).await?;
                        for call in calls.iter().cycle() {
                            // A call may be refused for want of room, which others then have.
                            let status = connection.ask("POST", "/it", 0, call).await?.status;
                            if ![200, 500, 503].contains(&status) {
                                return Err(format!("{call} was answered {status}"));
                            }
                            if over.load(Ordering::Relaxed) {
                                break;
                            }
                            stop::check()?;
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        let waited = ask_quiet(address, time);
        over.store(true, Ordering::Relaxed);
        for noisy in noisy {
            noisy.join().unwrap_or_else(|_| Err("a thread panicked".into()))?;
        }
        waited
    })
}

/// The lateness of the last of ten answers whose calls hold 60 MiB, have written to all of it, and meet their deadlines
/// together.
fn deadlines(plan: &Plan, report: &mut Report) -> Result<()> {
    let server =
        Server::carrel("large, deadlines", &config().set("limits.deadline", format!("{}s", DEADLINE.as_secs())))?;
    let mut late = Vec::new();
    for _ in 0..plan.rounds {
        late.push(together(server.address)?);
    }
    report.measured(Id::LargeDeadlines, median(late), "");
    Ok(())
}

/// The lateness of the last answer, in milliseconds.
fn together(address: SocketAddr) -> Result<f64> {
    client::block_on(async {
        let barrier = Arc::new(Barrier::new(TOGETHER));
        let mut all = JoinSet::new();
        for user in 0..TOGETHER as u64 {
            let barrier = barrier.clone();
            all.spawn(async move {
                let mut connection = Connection::open(address).await?;
                expect(&mut connection, user, WRITE_ALL).await?;
                barrier.wait().await;
                let began = Instant::now();
                let answer = connection.ask("POST", "/it", user, WRITE_ALL_AND_SPIN).await?;
                let (took, status) = (began.elapsed(), answer.status);
                if status != 504 {
                    return Err(format!("{WRITE_ALL_AND_SPIN} was answered {status}: {}", answer.text()));
                }
                expect(&mut connection, user, WRITE).await?;
                Ok::<_, String>((took.as_secs_f64() - DEADLINE.as_secs_f64()) * 1e3)
            });
        }
        let mut last = 0.0;
        while let Some(ended) = all.join_next().await {
            last = f64::max(last, ended.map_err(|error| error.to_string())??);
        }
        Ok(last)
    })
}

/// The memory of the process above its start at the worst moment, while 40 users reserve memory, write to it, keep it to be
/// undone, and are parked and woken.
fn resident(report: &mut Report) -> Result<()> {
    let config = config().set("limits.memory", LIMIT).set("sessions.park_after", "50ms");
    let server = Server::carrel("large, memory", &config)?;
    let over = AtomicBool::new(false);
    let before = server.memory()?;
    let most = thread::scope(|scope| {
        let sampling = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(server.memory()?.saturating_sub(before));
                thread::sleep(SAMPLE);
            }
            Ok::<_, String>(most)
        });
        let attacks: Vec<_> = (0..4).map(|caller| scope.spawn(move || attack(server.address, caller))).collect();
        let attacks: Vec<_> = attacks.into_iter().map(|it| it.join()).collect();
        over.store(true, Ordering::Relaxed);
        for attack in attacks {
            attack.unwrap_or_else(|_| Err("a thread panicked".into()))?;
        }
        sampling.join().unwrap_or_else(|_| Err("a thread panicked".into()))
    })?;
    let ratio = most as f64 / LIMIT as f64;
    report.measured(Id::Resident, ratio, format!("{} MiB of {} MiB", most >> 20, LIMIT >> 20));
    Ok(())
}

/// The attack by the users of one caller.
fn attack(address: SocketAddr, caller: u64) -> Result<()> {
    client::block_on(async {
        let mut connection = Connection::open(address).await?;
        for call in ["[4]", "[3,500]", WRITE_ALL, FILL_AND_TRAP, TEN_PAGES_AND_TRAP, WRITE_ALL] {
            for user in 0..10 {
                stop::check()?;
                let answer = connection.ask("POST", "/it", 10 * caller + user, call).await?;
                if ![200, 500, 503].contains(&answer.status) {
                    return Err(format!("{call} was answered {}: {}", answer.status, answer.text()));
                }
            }
        }
        Ok(())
    })
}
