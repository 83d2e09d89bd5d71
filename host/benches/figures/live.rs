//! Users with instances: their memory, and their cost to others as their number grows.

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
use std::time::Duration;

/// The calls that make a user's three instances.
pub(crate) const ALL_THREE: &[&str] = &[
    r#"{"command":"note","action":"add","param1":"milk"}"#,
    r#"{"command":"pref","action":"set","param1":"color","param2":"blue"}"#,
    STATS,
];
const STATS: &str = r#"{"command":"stats"}"#;
const LIST: &str = r#"{"command":"note","action":"list"}"#;
const INSTANCES: u64 = 3;
const MAPPINGS: usize = 1000;
/// Rounds of requests in turn for each number of users.
const ROUNDS: usize = 3;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let most = plan.most_live() + plan.sample;
    let config = Test::new().set("sessions.park_after", "off").set("limits.max_sessions", most);
    let few = Server::carrel("few", &config)?;
    make(&few, 0, plan.live[0])?;
    let servers = [Server::native()?, Server::carrel("many", &config)?];
    let empty = [servers[0].memory()?, servers[1].memory()?];
    let mut made = 0;
    for &users in plan.live {
        for server in &servers {
            make(server, made, users - made)?;
        }
        made = users;
        let [instances] = servers[1].metrics(["linear_memories"])?;
        if instances < INSTANCES * users {
            return Err(format!("{} users have only {} instances", count(users), count(instances)));
        }
        let [stats, list] = in_turn(&servers, users, plan)?;
        report.grown(Growth::Stats, users, stats);
        report.grown(Growth::List, users, list);
        memory(&servers, empty, users, plan, report)?;
        let [native, carrel] = first_requests(&servers, users, plan.sample)?;
        report.grown(Growth::First, users, format!("{carrel:.0} / {native:.0}"));
        if users == plan.live[0] {
            report.measured(Id::First, carrel, format!("with {} live users", count(users)));
        }
    }
    crowd(&few, &servers[1], plan, report)
}

/// Makes users with all their instances.
fn make(server: &Server, from: u64, users: u64) -> Result<()> {
    let made = Load { server, from, users, calls: ALL_THREE, turns: users, time: Duration::ZERO }.run()?;
    if users > 0 {
        eprintln!("{}: {} more users in {:.1} s", server.name, count(users), made.took.as_secs_f64());
    }
    Ok(())
}

fn memory(servers: &[Server; 2], empty: [u64; 2], users: u64, plan: &Plan, report: &mut Report) -> Result<()> {
    let all = servers[1].memory()?;
    let each = |index: usize, now: u64| bytes((now.saturating_sub(empty[index])) as f64 / users as f64);
    let (native, carrel) = (each(0, servers[0].memory()?), each(1, all));
    report.grown(Growth::Memory, users, format!("{carrel} / {native}"));
    let [counted] = servers[1].metrics(["memory_bytes"])?;
    report.grown(Growth::CountedMemory, users, bytes(counted as f64 / users as f64));
    let mappings = servers[1].mappings()?;
    report.grown(Growth::Mappings, users, count(mappings as u64));
    if users == plan.most_live() {
        report.measured(Id::Live, all as f64, format!("{carrel} each, {} mappings", count(mappings as u64)));
    }
    if mappings >= MAPPINGS {
        report.wrong(Id::Live, format!("{MAPPINGS} mappings or more"));
    }
    Ok(())
}

/// CPU of a request in turn over all users: of `stats`, and of `note list`.
fn in_turn(servers: &[Server; 2], users: u64, plan: &Plan) -> Result<[String; 2]> {
    let mut texts = Vec::new();
    for calls in [&[STATS], &[LIST]] {
        let mut each = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for index in [round % 2, (round + 1) % 2] {
                each[index].push(turn(&servers[index], users, calls, plan)?);
            }
        }
        let ratios = each[1].iter().zip(&each[0]).map(|(carrel, native)| carrel / native).collect();
        let ratio = median(ratios);
        let [native, carrel] = each.map(median);
        texts.push(format!("{carrel:.1} / {native:.1} = {ratio:.2}"));
    }
    texts.try_into().map_err(|_| "two texts".into())
}

/// CPU of a request in turn over all users, each of which has at least one turn.
fn turn(server: &Server, users: u64, calls: &'static [&'static str], plan: &Plan) -> Result<f64> {
    let load = Load { server, from: 0, users, calls, turns: users, time: plan.round / 3 };
    Ok(load.run()?.cpu_each())
}

/// The time by which a user's first `stats` exceeds the second, in microseconds. The users are new: their numbers
/// follow those of the existing ones.
fn first_requests(servers: &[Server; 2], users: u64, sample: u64) -> Result<[f64; 2]> {
    let mut above = [Vec::new(), Vec::new()];
    client::block_on(async {
        for (index, server) in servers.iter().enumerate() {
            let mut connection = Connection::open(server.address).await?;
            for user in users..users + sample {
                stop::check()?;
                let (first, _) = connection.timed(user, STATS).await?;
                let (second, _) = connection.timed(user, STATS).await?;
                above[index].push((first.as_secs_f64() - second.as_secs_f64()) * 1e6);
            }
        }
        Ok(())
    })?;
    Ok(above.map(median))
}

/// Compares a request with many users to one with few, in turns.
fn crowd(few: &Server, many: &Server, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut ratios = Vec::new();
    let mut each = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        let with_few = turn(few, plan.live[0], &[STATS], plan)?;
        let with_many = turn(many, plan.most_live(), &[STATS], plan)?;
        // The first one warms up.
        if round > 0 {
            ratios.push(with_many / with_few);
            each[0].push(with_few);
            each[1].push(with_many);
        }
    }
    let [with_few, with_many] = each.map(median);
    report.measured(Id::Crowd, median(ratios), format!("{with_many:.1} us against {with_few:.1} us"));
    Ok(())
}
