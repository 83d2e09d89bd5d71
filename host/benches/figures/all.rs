//! All figures of host/docs/performance.md, measured in one run: `host/benches/all.sh` builds and starts it.
//!
//! The program starts the real binary and, for cases that need no Carrel, the native server (`../native`), sends them
//! load over 127.0.0.1, and reads their use of resources from /proc. Compared cases are measured in turns, so that
//! other load on the machine affects both.
//!
//! # Layout
//!
//! * [`plan`]: the size of each measurement. [`report`]: the figures, their bounds, and the tables.
//! * [`server`]: a server's process, and what it uses. [`client`]: connections. [`load`]: load. [`stop`]: reasons that end
//!   a run early: a signal, too little memory, too much time.
//! * The parts, in the order in which they run: [`hot`], [`rollback`], [`live`], [`parked`], [`waiting`],
//!   [`fair`], [`hostile`], [`large`], [`rate`].
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod client;
mod fair;
mod hostile;
mod hot;
mod large;
mod live;
mod load;
mod parked;
mod plan;
mod rate;
mod report;
mod rollback;
mod server;
mod stop;
mod waiting;

use clap::{Parser, ValueEnum};
use plan::{Plan, Size};
use report::Report;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Parser)]
#[command(about = "Measures all figures of host/docs/performance.md, and writes its tables to stdout")]
struct Arguments {
    /// How much of everything
    #[arg(value_enum, default_value_t = Size::Full)]
    size: Size,
    /// Only these parts; all by default
    #[arg(value_enum)]
    parts: Vec<Part>,
}

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The CPU of warm requests, beside the native server
    Hot,
    /// What being able to undo a call costs it, without a socket
    Rollback,
    /// Users with instances: memory, the CPU of their requests, first requests
    Live,
    /// Parked users: memory, waking
    Parked,
    /// How long others wait: while guests spin, while users are parked and dropped
    Waiting,
    /// What a tenant notices of another one whose guests spin
    Fair,
    /// What a tenant notices of another one's attacks, one after the other
    Hostile,
    /// The cost of state of 60 MiB: calls, undoing, parking and waking, and what others notice of it
    Large,
    /// Whether a tenant gets the fuel a second that it may have
    Rate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = Plan::new(arguments.size);
    let parts = if arguments.parts.is_empty() { Part::value_variants() } else { &arguments.parts };
    let mut report = Report::new(&plan);
    if let Err(why) = stop::watch(plan.limit) {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    for part in parts {
        let (began, name) = (Instant::now(), format!("{part:?}").to_lowercase());
        eprintln!("== {name}");
        let run = match part {
            Part::Hot => hot::run,
            Part::Rollback => rollback::run,
            Part::Live => live::run,
            Part::Parked => parked::run,
            Part::Waiting => waiting::run,
            Part::Fair => fair::run,
            Part::Hostile => hostile::run,
            Part::Large => large::run,
            Part::Rate => rate::run,
        };
        stop::next_part();
        // Figures already found are reported, whatever fails later.
        let run = AssertUnwindSafe(|| stop::check().and_then(|()| run(&plan, &mut report)));
        if let Err(why) = catch_unwind(run).unwrap_or_else(|_| Err("it panicked, as said above".into())) {
            eprintln!("error: {why}");
            report.failed(&name, &why);
        }
        eprintln!("== {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    println!("{}", report.text());
    if report.is_good(parts) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The median; of an even number, the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}
