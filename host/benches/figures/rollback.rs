//! The cost of rollback to a warm call: the same calls in two hosts, without a socket, in turns.

use crate::{
    Result,
    client::block_on,
    median,
    plan::Plan,
    report::{Id, Report},
    stop,
};
use carrel_tests::{Server, Test};
use std::time::Instant;

const STATS: &str = r#"{"command":"stats"}"#;
const ADD: &str = r#"{"command":"note","action":"add","param1":"milk"}"#;
const CLEAR: &str = r#"{"command":"note","action":"clear"}"#;
/// Calls that are timed together: fewer than a user may have notes.
const BLOCK: usize = 40;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for (id, body) in [(Id::RollbackStats, STATS), (Id::RollbackAdd, ADD)] {
        let blocks = plan.blocks;
        let [off, on] = block_on(async move {
            // As a task, as in the server.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let measured = runtime.spawn(measure(body, blocks)).await;
            runtime.shutdown_background();
            measured.map_err(|error| error.to_string())?
        })?;
        report.measured(id, on - off, format!("{off:.1} us without, {on:.1} us with"));
    }
    Ok(())
}

/// Microseconds of a call without rollback, and with it.
async fn measure(body: &'static str, blocks: usize) -> Result<[f64; 2]> {
    let without = Test::new().set("sessions.rollback", false).start().await;
    let with = Test::new().set("sessions.rollback", true).start().await;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..blocks + 2 {
        stop::check()?;
        for index in [round % 2, (round + 1) % 2] {
            let took = block([&without, &with][index], body).await?;
            // The first ones make the instances.
            if round >= 2 {
                times[index].push(took);
            }
        }
    }
    Ok(times.map(median))
}

/// Microseconds of one of these calls.
async fn block(server: &Server, body: &'static str) -> Result<f64> {
    let user = server.user("somebody");
    let began = Instant::now();
    for _ in 0..BLOCK {
        let reply = user.body(body).await;
        if !reply.body.starts_with(br#"{"success":true"#) {
            return Err(format!("{body} was answered {reply:?}"));
        }
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / BLOCK as f64;
    user.body(CLEAR).await;
    Ok(took)
}
