//! Parked users: their memory, the correctness of their state after waking, and the time to wake, as their number
//! grows.

use crate::{
    Result,
    client::{self, Connection},
    load::Load,
    median,
    plan::Plan,
    report::{Growth, Id, Report, bytes, count},
    server::Server,
    stop,
};
use carrel_tests::Test;
use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

/// Each user's calls: their own notes, and a preference. Each call makes or uses another instance.
const CALLS: &[&str] = &[
    r#"{"command":"note","action":"add","param1":"milk of %"}"#,
    r#"{"command":"note","action":"add","param1":"bread of %"}"#,
    r#"{"command":"note","action":"add","param1":"% apples"}"#,
    r#"{"command":"pref","action":"set","param1":"color","param2":"blue-%"}"#,
];
const STATS: &str = r#"{"command":"stats"}"#;
const LIST: &str = r#"{"command":"note","action":"list"}"#;
const COLOR: &str = r#"{"command":"pref","action":"get","param1":"color"}"#;
/// Short, so that users still live are never a large part of all.
const PARK_AFTER: &str = "2s";
/// The most live users, which bounds their memory.
const LIVE: u64 = 20_000;
/// The lowest rate at which users are parked, and the time allowed besides.
const PARKED_A_SECOND: u64 = 2000;
const PARKING_TAKES: Duration = Duration::from_secs(30);

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = Test::new().set("sessions.park_after", PARK_AFTER).set("limits.max_sessions", LIVE);
    let server = Server::carrel("parking", &config)?;
    let empty = server.memory()?;
    let mut asked = HashMap::new();
    let mut made = 0;
    for &users in plan.parked {
        make(&server, made, users)?;
        made = users;
        until_all_are_parked(&server, users)?;
        let all = server.memory()?;
        let each = bytes(all.saturating_sub(empty) as f64 / users as f64);
        report.grown(Growth::ParkedMemory, users, each.clone());
        let [counted] = server.metrics(["memory_bytes"])?;
        report.grown(Growth::CountedParkedMemory, users, bytes(counted as f64 / users as f64));
        let woken = client::block_on(wake(&server, users, plan.sample, &mut asked))?;
        report.grown(Growth::WakeOne, users, format!("{:.0}", woken.one));
        report.grown(Growth::WakeTwo, users, format!("{:.0}", woken.two));
        if users == plan.parked[0] {
            report.measured(Id::Wake, woken.one, format!("with {} parked users", count(users)));
        }
        if users == plan.most_parked() {
            let right = woken.looked_at - woken.wrong.len();
            let note = format!("{each} each; {right} of {} that were woken are right", woken.looked_at);
            report.measured(Id::Parked, all as f64, note);
        }
        if let Some(wrong) = woken.wrong.first() {
            report.wrong(Id::Parked, wrong);
        }
    }
    Ok(())
}

/// Makes users up to this number. They are parked meanwhile.
fn make(server: &Server, made: u64, users: u64) -> Result<()> {
    // In steps, to show progress.
    let step = (users - made).div_ceil(10).max(10_000);
    let mut from = made;
    while from < users {
        let more = step.min(users - from);
        let load = Load { server, from, users: more, calls: CALLS, turns: more, time: Duration::ZERO }.run()?;
        from += more;
        let [live, parked] = server.metrics(["sessions_live", "sessions_parked"])?;
        eprintln!(
            "{} more users in {:.1} s, {} requests were sent again for want of room; {} live, {} parked, {}",
            count(more),
            load.took.as_secs_f64(),
            load.refused,
            count(live),
            count(parked),
            bytes(server.memory()? as f64)
        );
    }
    Ok(())
}

/// Waits until all of these users are parked.
pub(crate) fn until_all_are_parked(server: &Server, users: u64) -> Result<()> {
    let end = Instant::now() + PARKING_TAKES + Duration::from_secs(users / PARKED_A_SECOND);
    loop {
        let [live, parked] = server.metrics(["sessions_live", "sessions_parked"])?;
        if live == 0 && parked >= users {
            return Ok(());
        }
        if Instant::now() > end {
            let (live, parked) = (count(live), count(parked));
            return Err(format!("of {} users {parked} are parked and {live} live", count(users)));
        }
        stop::check()?;
        thread::sleep(Duration::from_millis(100));
    }
}

/// The results of waking some users.
struct Woken {
    /// Microseconds above a warm request when one instance is woken, and two.
    one: f64,
    two: f64,
    looked_at: usize,
    /// The answers of users whose state has changed.
    wrong: Vec<String>,
}

/// Wakes so many users, half of them by each of two commands, and checks that their state is unchanged. `asked`
/// counts each user's commands in earlier runs.
async fn wake(server: &Server, users: u64, sample: u64, asked: &mut HashMap<u64, u64>) -> Result<Woken> {
    let mut connection = Connection::open(server.address).await?;
    let (mut one, mut two, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let picked = pick(users, sample);
    for (index, &user) in picked.iter().enumerate() {
        stop::check()?;
        let commands = asked.entry(user).or_insert(CALLS.len() as u64);
        let above = if index % 2 == 0 { &mut one } else { &mut two };
        let body = if index % 2 == 0 { STATS } else { LIST };
        let (first, woken) = connection.timed(user, body).await?;
        let (second, _) = connection.timed(user, body).await?;
        above.push((first.as_secs_f64() - second.as_secs_f64()) * 1e6);
        // Nothing of the user's state may be missing or another's.
        let (_, notes) = connection.timed(user, LIST).await?;
        let (_, color) = connection.timed(user, COLOR).await?;
        *commands += 1;
        let counted = format!(r#""commands_executed":{commands}}}"#);
        *commands += 3;
        let own = format!(r#""notes":["milk of {user}","bread of {user}","{user} apples"],"count":3,"#);
        let blue = format!(r#""value":"blue-{user}","#);
        if !woken.contains(&counted) || !notes.contains(&own) || !color.contains(&blue) {
            wrong.push(format!("user {user} woke as {woken} with {notes} and {color}"));
        }
    }
    Ok(Woken { one: median(one), two: median(two), looked_at: picked.len(), wrong })
}

/// Different users of all that there are, at random.
fn pick(users: u64, sample: u64) -> Vec<u64> {
    let mut picked = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while (picked.len() as u64) < sample.min(users) {
        let user = rand::random_range(0..users);
        if seen.insert(user) {
            picked.push(user);
        }
    }
    picked
}
