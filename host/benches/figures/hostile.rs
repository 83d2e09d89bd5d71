//! The effect on a tenant of another one's attacks by guests and callers: one attack after the other, each repeated
//! for as long as it is measured. The effect is compared with that of an equally busy harmless neighbour: on two
//! cores, any two loads slow each other down.

use crate::{
    Result,
    client::{self, Connection, Waited},
    median,
    plan::Plan,
    report::{Id, Report},
    server::Server,
    stop,
    waiting::{ask_quiet, at, row},
};
use carrel_tests::{HOSTILE, Test, key};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The time that a caller who breaks the rules waits for the host's answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// Turns in which an attack is measured beside a request.
const TURNS: u32 = 4;
/// The call of a busy but harmless neighbour: some milliseconds of work.
const ORDINARY: &str = r#"{"do":"print","text":"x","times":1000}"#;

/// An attack on the host.
enum Attack {
    /// A call's path and body, and the status of its answer.
    Call(&'static str, String, u16),
    /// Bytes on a connection of their own, which then is closed.
    Bytes(Vec<u8>),
}

fn attacks() -> Vec<(&'static str, Attack)> {
    let hostile = |body: &str, status| Attack::Call("/hostile", body.to_owned(), status);
    let flood = |what: &str| Attack::Call("/it", format!("\"{what}\""), 500);
    let all = |what: &str| hostile(&format!(r#"{{"do":"all","of":[{}]}}"#, vec![what; 3000].join(",")), 500);
    let head = format!("POST /hostile HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n", key("noisy", 1));
    let request = |headers: &str, body: &str| {
        Attack::Bytes(format!("{head}Content-Type: application/json\r\n{headers}\r\n{body}").into_bytes())
    };
    let spin = r#"{"do":"spin"}"#;
    vec![
        ("a guest computes for ever", hostile(spin, 500)),
        ("a guest waits on a clock", hostile(r#"{"do":"sleep","milliseconds":60000}"#, 504)),
        ("a guest recurses without end", hostile(r#"{"do":"recurse"}"#, 500)),
        ("a guest takes memory in one step", hostile(r#"{"do":"take","bytes":1000000000}"#, 500)),
        ("a guest takes memory in many steps", hostile(r#"{"do":"hoard"}"#, 500)),
        ("a guest that is refused memory goes on", hostile(r#"{"do":"probe"}"#, 500)),
        ("a guest panics", hostile(r#"{"do":"panic"}"#, 500)),
        ("a guest aborts", hostile(r#"{"do":"abort"}"#, 500)),
        ("a guest exits", hostile(r#"{"do":"exit","status":3}"#, 500)),
        ("a guest divides by zero", hostile(r#"{"do":"divide"}"#, 500)),
        ("a guest goes where no code is", hostile(r#"{"do":"unreachable"}"#, 500)),
        ("a guest writes where it has no memory", hostile(r#"{"do":"wild"}"#, 500)),
        ("a guest answers with what is no text", hostile(r#"{"do":"garble"}"#, 500)),
        ("a guest answers too much", hostile(r#"{"do":"answer","bytes":3000000}"#, 500)),
        (
            "a guest fails in too many words",
            hostile(&format!(r#"{{"do":"fail","why":"{}"}}"#, "x".repeat(300_000)), 500),
        ),
        ("a guest emits too much", hostile(r#"{"do":"emit","chunks":100000,"bytes":1000}"#, 500)),
        ("a guest writes log lines without end", hostile(r#"{"do":"print","text":"x","times":100000000}"#, 500)),
        ("a guest writes to its log byte by byte", flood("w 1 100000000")),
        ("a guest asks for random bytes", flood("r 60000 100000000")),
        ("a guest makes pollables", flood("b 1 100000000")),
        ("a guest polls a list", flood("l 500 100000000")),
        ("a guest asks for siblings that there are not", all(r#"{"do":"call","name":"nobody","input":null}"#)),
        ("a guest calls itself", all(r#"{"do":"call","name":"hostile","input":{"do":"count"}}"#)),
        ("a guest calls a sibling again and again", all(r#"{"do":"call","name":"other","input":{"do":"count"}}"#)),
        ("a guest calls a sibling that panics", all(r#"{"do":"call","name":"other","input":{"do":"panic"}}"#)),
        ("a guest looks for files, environment, sockets", hostile(r#"{"do":"escape"}"#, 200)),
        ("a caller sends a megabyte of nesting", hostile(&"[".repeat(1_000_000), 422)),
        ("a caller sends too large a body", hostile(&" ".repeat(3_000_000), 413)),
        ("a caller hangs up in mid-call", request(&format!("Content-Length: {}\r\n", spin.len()), spin)),
        ("a caller's body does not come", request("Content-Length: 100\r\n", "{")),
        ("a request has two lengths", request("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")),
        ("a request has a length and chunks", request("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "{}")),
        ("a caller's headers have no end", request(&"X-Filler: x\r\n".repeat(30_000), "")),
        ("a caller's cookie is huge", request(&format!("Cookie: nat-session={}\r\n", "x".repeat(400_000)), "")),
        (
            "requests come all at once",
            Attack::Bytes("GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).into_bytes()),
        ),
        ("a caller says nothing", Attack::Bytes(Vec::new())),
    ]
}

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let config = Test::fixture("flood")
        .set("guests", serde_json::json!([Test::fixture_file("flood"), HOSTILE]))
        .set("functions.hostile._type", "hostile")
        .set("functions.other._type", "hostile")
        .endpoint("/hostile", "hostile")
        .tenant("noisy", 1, 2)
        .tenant("quiet", 1, 1)
        .set("limits.fuel_per_call", "20M")
        .set("limits.deadline", "1s")
        .set("limits.output_size", "256 KiB")
        .set("limits.body_size", "2 MiB");
    let server = Server::carrel("hostile", &config)?;
    let address = server.address;
    ask_quiet(address, plan.attack)?;
    client::block_on(hold(address))?;
    fuel(plan, &server, report)?;
    let ordinary = Attack::Call("/hostile", ORDINARY.to_owned(), 200);
    let (mut alone, mut beside_ordinary, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for (what, attack) in attacks() {
        let mut waited = Vec::new();
        for _ in 0..plan.rounds {
            alone.extend(ask_quiet(address, plan.attack)?);
            beside_ordinary.extend(ask_beside(address, plan.attack, &ordinary)?);
            waited.extend(ask_beside(address, plan.attack, &attack).map_err(|why| format!("{what}: {why}"))?);
        }
        beside.push((what, waited));
    }
    let asked = "`stats` of another tenant";
    let usual = at(&beside_ordinary, 990);
    let mut worst = (0.0, "");
    for (what, waited) in &beside {
        let ratio = at(waited, 990) / usual;
        report.latency(row(&format!("{what}, again and again"), asked, waited));
        if ratio > worst.0 {
            worst = (ratio, what);
        }
    }
    report.latency(row("a guest writes a thousand lines to its log, again and again", asked, &beside_ordinary));
    report.latency(row("nobody else calls", asked, &alone));
    report.measured(Id::BesideAttack, worst.0, format!("{}; {usual:.2} ms", worst.1));
    Ok(())
}

/// The attacker's guest takes 60 MB, which all of its calls might lose.
async fn hold(address: SocketAddr) -> Result<()> {
    let mut connection = Connection::open_with_key(address, &key("noisy", 0)).await?;
    for _ in 0..30 {
        let answer = connection.ask("POST", "/hostile", 0, r#"{"do":"take","bytes":2000000}"#).await?;
        if answer.status != 200 {
            return Err(format!("memory could not be taken: {}: {}", answer.status, answer.text()));
        }
    }
    Ok(())
}

/// The cost of the attacks for each unit of fuel that their callers pay, beside a plain loop. A request takes some
/// work that no guest causes and no fuel pays for: that of a call that only counts. The two take turns, since what else
/// runs on the machine changes the one as much as some attacks take in all.
fn fuel(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    let cost = |body: &str, path, status| {
        let mut above = Vec::new();
        let mut units = 0.0;
        for _ in 0..TURNS {
            let [request, _] = paid(plan, server, "/hostile", r#"{"do":"count"}"#, 200)?;
            let [cpu, paid] = paid(plan, server, path, body, status)?;
            above.push(cpu - request);
            units = paid;
        }
        Ok::<_, String>([median(above), units])
    };
    let [looped, of_loop] = cost(r#"{"do":"spin"}"#, "/hostile", 500)?;
    let usual = looped / of_loop;
    let mut worst = (0.0, "");
    for (what, attack) in attacks() {
        let Attack::Call(path, body, status) = attack else { continue };
        // A call that waits until the deadline pays in time, not in fuel.
        if status == 504 {
            continue;
        }
        let Ok([cpu, units]) = cost(&body, path, status) else { continue };
        if units > 0.0 {
            let ratio = cpu.max(0.0) / units / usual;
            eprintln!("{what}: {cpu:.0} us above a request, {units:.0} units: {ratio:.2}");
            if ratio > worst.0 {
                worst = (ratio, what);
            }
        }
    }
    report.measured(Id::FuelOfAttack, worst.0, format!("{}; a loop takes {:.2} ns", worst.1, usual * 1e3));
    Ok(())
}

/// The mean microseconds of CPU and units of fuel of a call.
fn paid(plan: &Plan, server: &Server, path: &str, body: &str, status: u16) -> Result<[f64; 2]> {
    client::block_on(async {
        let mut connection = Connection::open_with_key(server.address, &key("noisy", 0)).await?;
        let (mut calls, mut fuel) = (0, 0);
        let (before, end) = (server.cpu()?, Instant::now() + plan.attack / TURNS);
        while calls < 5 || (Instant::now() < end && calls < 1000) {
            let answer = connection.ask("POST", path, 0, body).await?;
            if answer.status != status {
                return Err(format!("it was answered {}: {}", answer.status, answer.text()));
            }
            (calls, fuel) = (calls + 1, fuel + answer.fuel.unwrap_or(0));
            stop::check()?;
        }
        let cpu = server.cpu()?.since(&before).as_secs_f64() * 1e6;
        Ok([cpu / f64::from(calls), fuel as f64 / f64::from(calls)])
    })
}

/// The waits of a user of the other tenant while the attack goes on.
fn ask_beside(address: SocketAddr, time: Duration, attack: &Attack) -> Result<Vec<Waited>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacking = scope.spawn(|| client::block_on(attack_until(address, attack, &over)));
        let waited = ask_quiet(address, time);
        over.store(true, Ordering::Relaxed);
        attacking.join().unwrap_or_else(|_| Err("a thread panicked".into()))?;
        waited
    })
}

async fn attack_until(address: SocketAddr, attack: &Attack, over: &AtomicBool) -> Result<()> {
    let mut connection = Connection::open_with_key(address, &key("noisy", 0)).await?;
    while !over.load(Ordering::Relaxed) {
        stop::check()?;
        match attack {
            Attack::Call(path, body, expected) => match connection.ask("POST", path, 0, body).await {
                Ok(answer) if answer.status == *expected => {}
                Ok(answer) => return Err(format!("it was answered {}: {}", answer.status, answer.text())),
                // A caller refused before all was sent may be disconnected.
                Err(_) if *expected == 413 => {
                    connection = Connection::open_with_key(address, &key("noisy", 0)).await?;
                }
                Err(why) => return Err(why),
            },
            Attack::Bytes(bytes) => {
                let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                // A caller who breaks the rules may be disconnected at any time.
                let _ = stream.write_all(bytes).await;
                let mut said = [0; 4096];
                let _ = timeout(PATIENCE, stream.read(&mut said)).await;
            }
        }
    }
    Ok(())
}
