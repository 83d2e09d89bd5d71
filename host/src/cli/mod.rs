//! The commands. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 done; 1 a call failed, or the host could not do what was asked; 2 the command line or the
//! configuration is wrong.

mod info;
mod key;
mod prove;
mod run;
mod serve;
mod validate;

use crate::{
    Host,
    config::{self, Config, Problem, Surroundings},
    observe::{self, LogFormat, Pace},
};
use clap::{Args, Parser, Subcommand};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
};
use tokio::runtime::Runtime;

/// A host that gives every user a private, sandboxed, stateful copy of the functions they call.
#[derive(Debug, Parser)]
#[command(name = "carrel", version, about, after_help = EXIT_CODES)]
struct Cli {
    /// How log lines look, on stderr; the variable RUST_LOG chooses which there are (default: carrel=info,guest=info)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 a call failed or the host could not start; 2 the command line or the \
                          configuration is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the functions over HTTP until SIGTERM or Ctrl-C, and then let running calls end
    Serve(serve::Arguments),
    /// Call a function once, without a server: its output goes to stdout
    Run(run::Arguments),
    /// Check a configuration and every guest that it names, and tell all that is wrong at once
    Validate(ConfigFile),
    /// List the functions and guests: types, summaries, schemas, where each guest comes from
    Info(info::Arguments),
    /// Attack a host made of a configuration with guests and callers that mean no good, and tell which limits hold
    Prove(prove::Arguments),
    /// Make an API key: the key goes to stdout, its hash, for the configuration, to stderr
    Key,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, a YAML file; the folder configs/ of the project has some to start from
    #[arg(long = "config_file", visible_alias = "config-file", value_name = "FILE")]
    config_file: PathBuf,
    /// Set a key, given with dots, in place of what the file says of it: `--override limits.deadline 5s`
    #[arg(long = "override", num_args = 2, value_names = ["KEY", "VALUE"])]
    overrides: Vec<String>,
}

impl ConfigFile {
    /// The keys that are set on the command line, and what to.
    fn overrides(&self) -> Vec<(String, String)> {
        self.overrides.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }
}

/// What went wrong, for people, and the exit code.
enum Error {
    /// The configuration is wrong.
    Config(config::Error),
    /// What was asked for is not done, for a reason that the configuration has to settle.
    Usage(String),
    /// Something else.
    Other(String),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Config(error)
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let pace = if matches!(cli.command, Command::Serve(_)) { Pace::Drop } else { Pace::Wait };
    // Those who attack crash again and again, which is no news.
    let usual = if matches!(cli.command, Command::Prove(_)) { "carrel=error" } else { "carrel=info,guest=info" };
    let _log = observe::log(cli.log_format, pace, usual);
    let done = match cli.command {
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Validate(file) => validate::validate(file),
        Command::Info(arguments) => info::info(arguments),
        Command::Prove(arguments) => prove::prove(arguments),
        Command::Key => key::key(),
    };
    match done {
        Ok(code) => code,
        Err(Error::Config(error)) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
        Err(Error::Usage(why)) => {
            say(&format!("error: {why}"));
            ExitCode::from(2)
        }
        Err(Error::Other(why)) => {
            say(&format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for people, on stderr.
fn say(line: &str) {
    // Nobody is there to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Data, on stdout. A reader who has gone away has had enough.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A configuration that may have problems, to be told with those of its guests.
struct Draft {
    config: Config,
    problems: Vec<Problem>,
}

impl ConfigFile {
    fn load(&self) -> Result<Draft, Error> {
        let overrides = self.overrides();
        let surroundings = Surroundings { overrides: &overrides, ..Surroundings::default() };
        let (config, problems) = Config::load_with_problems(&self.config_file, surroundings)?;
        Ok(Draft { config, problems })
    }
}

/// Threads that calls run on: as configured, or one for each core; two at least, since one is kept for short calls.
fn threads(config: &Config) -> usize {
    let cores = || thread::available_parallelism().map_or(2, usize::from);
    config.general.front_end.workers.unwrap_or_else(cores).max(2)
}

fn runtime(threads: usize) -> Result<Runtime, Error> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("carrel-worker")
        .enable_all()
        // How many tasks are run before sockets are looked at. By default 61: with guests that use their whole tick,
        // new requests would go unseen for 61 ticks.
        .event_interval(16)
        .build();
    built.map_err(|error| Error::Other(format!("the threads could not be started: {error}")))
}

/// A host without a socket. All problems are told at once, those of the file and those of the guests.
fn start(draft: Draft, threads: usize, runtime: &Runtime) -> Result<Arc<Host>, Error> {
    let Draft { config, mut problems } = draft;
    let source = config.source.clone();
    match runtime.block_on(Host::start(config, threads)) {
        Ok(host) if problems.is_empty() => Ok(host),
        Ok(_) => Err(source.error(problems).into()),
        Err(error) => {
            problems.extend(error.problems);
            Err(source.error(problems).into())
        }
    }
}
