//! Warm requests, beside the native server: the CPU that a server needs for one.
//!
//! If `CARREL_BEFORE` names another binary of Carrel's, such as the one before a change, it takes part in the same rounds.

use crate::{
    Result,
    client::{self, Connection},
    load::{Load, Loaded},
    median,
    plan::Plan,
    report::{Id, Report, count},
    server::Server,
    stop,
};
use carrel_tests::Test;
use std::{env, path::PathBuf, time::Duration};

const STATS: &str = r#"{"command":"stats"}"#;
const ADD: &str = r#"{"command":"note","action":"add","param1":"milk"}"#;
const LIST: &str = r#"{"command":"note","action":"list"}"#;
/// A user on whom no other user's notes and counts depend.
const NOBODY: u64 = u64::MAX;

/// A request that is sent to each server.
struct Case {
    name: String,
    calls: &'static [&'static str],
    users: u64,
    /// The figures with rollback off, and on.
    ids: [Id; 2],
}

/// For each server, its rounds: the native one, Carrel with rollback off and on, and the same of the binary before.
type Rounds = Vec<Vec<Loaded>>;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let turn = count(plan.in_turn);
    let cases = [
        Case { name: "`stats`, one user".into(), calls: &[STATS], users: 1, ids: [Id::HotOff, Id::HotOn] },
        Case {
            name: format!("`stats`, {turn} users in turn"),
            calls: &[STATS],
            users: plan.in_turn,
            ids: [Id::TurnOff, Id::TurnOn],
        },
        Case {
            name: format!("`note list`, 5 notes, {turn} users in turn"),
            calls: &[LIST],
            users: plan.in_turn,
            ids: [Id::ListOff, Id::ListOn],
        },
    ];
    let mut all: Vec<(Case, Rounds)> = cases.into_iter().map(|case| (case, Rounds::new())).collect();
    let mut names: Vec<String> = Vec::new();
    for start_number in 0..plan.starts {
        let servers = start(plan)?;
        for (case, rounds) in &mut all {
            rounds.resize_with(servers.len(), Vec::new);
            let before = rounds[0].len();
            measure(case, &servers, (start_number, plan), rounds)?;
            eprintln!(
                "{}: {:.2} and {:.2} times native",
                case.name,
                ratio(rounds, 1, before),
                ratio(rounds, 2, before)
            );
        }
        names = servers.iter().map(|server| server.name.clone()).collect();
    }
    for (case, rounds) in &all {
        for (index, name) in names.iter().enumerate() {
            let middle = |of: fn(&Loaded) -> f64| median(rounds[index].iter().map(of).collect());
            report.beside_native(format!(
                "| {} | {name} | {:.0} | {:.2} | {:.2} | {:.1} | {:.2} |",
                case.name,
                middle(Loaded::rate),
                middle(|it| it.percentile(50)),
                middle(|it| it.percentile(99)),
                middle(Loaded::cpu_each),
                ratio(rounds, index, 0),
            ));
        }
        for (index, id) in (1..).zip(case.ids) {
            report.measured(id, ratio(rounds, index, 0), "");
            if let Some(before) = rounds.get(index + 2) {
                let name = format!("{}, {}", case.name, names[index]);
                report.beside_before(name, against(&rounds[index], before, 0));
            }
        }
    }
    Ok(())
}

/// All servers, and five notes of each user in each of them.
fn start(plan: &Plan) -> Result<Vec<Server>> {
    let config = Test::new().set("sessions.park_after", "off");
    let off = config.clone().set("sessions.rollback", false);
    let mut servers =
        vec![Server::native()?, Server::carrel("rollback off", &off)?, Server::carrel("rollback on", &config)?];
    if let Some(before) = env::var_os("CARREL_BEFORE").map(PathBuf::from) {
        servers.push(Server::of(&before, "rollback off, before", &off)?);
        servers.push(Server::of(&before, "rollback on, before", &config)?);
    }
    client::block_on(same_answers(&servers))?;
    for server in &servers {
        let notes = &[ADD, ADD, ADD, ADD, ADD];
        let all = plan.in_turn;
        Load { server, from: 0, users: all, calls: notes, turns: all, time: Duration::ZERO }.run()?;
    }
    Ok(servers)
}

fn measure(case: &Case, servers: &[Server], (start, plan): (usize, &Plan), rounds: &mut Rounds) -> Result<()> {
    let load = |server, time| Load { server, from: 0, users: case.users, calls: case.calls, turns: 0, time }.run();
    for server in servers {
        load(server, 2 * plan.turn)?;
    }
    for round in 0..plan.turns {
        // The servers take turns at going first, too.
        for index in 0..servers.len() {
            let index = (index + round + start) % servers.len();
            rounds[index].push(load(&servers[index], plan.turn)?);
        }
    }
    Ok(())
}

/// A server's CPU relative to native: the ratio is taken for each round, so that other load on the machine affects
/// both its parts.
fn ratio(rounds: &Rounds, index: usize, from: usize) -> f64 {
    against(&rounds[index], &rounds[0], from)
}

fn against(rounds: &[Loaded], others: &[Loaded], from: usize) -> f64 {
    let pairs = rounds[from..].iter().zip(&others[from..]);
    median(pairs.map(|(server, other)| server.cpu_each() / other.cpu_each()).collect())
}

/// Checks that all servers give the same answers.
async fn same_answers(servers: &[Server]) -> Result<()> {
    let dialogue = [
        STATS,
        ADD,
        LIST,
        r#"{"command":"note","action":"count"}"#,
        r#"{"command":"NOTE","action":"Add"}"#,
        r#"{"command":"pref","action":"set","param1":"color","param2":"blue"}"#,
        r#"{"command":"pref","action":"get","param1":"theme"}"#,
        r#"{"command":"pref","action":"list"}"#,
        r#"{"command":"help"}"#,
        r#"{"command":"nope"}"#,
        r#"{"command":"note","action":"clear"}"#,
        STATS,
    ];
    let mut said: Vec<Vec<String>> = Vec::new();
    for server in servers {
        stop::check()?;
        let mut connection = Connection::open(server.address).await?;
        let mut answers = Vec::new();
        for body in dialogue {
            let answer = connection.call(NOBODY, body).await?;
            answers.push(format!("{} {}", answer.status, answer.text()));
        }
        said.push(answers);
    }
    for (index, body) in dialogue.iter().enumerate() {
        let native = &said[0][index];
        let other = said.iter().zip(servers).find(|(answers, _)| answers[index] != *native);
        if let Some((answers, server)) = other {
            return Err(format!("to {body} native says {native}, and {} says {}", server.name, answers[index]));
        }
        if !native.starts_with("200 ") {
            return Err(format!("{body} is answered {native}"));
        }
    }
    if said[0][11].contains("12 commands executed") {
        Ok(())
    } else {
        Err(format!("after 12 commands, {STATS} is answered {}", said[0][11]))
    }
}
