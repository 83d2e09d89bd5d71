//! The commands. Data goes to stdout, everything else to stderr: see `tell`.
//!
//! Exit codes: 0 done; 1 a call failed, or the host could not do what was asked, or its output could not be written; 2
//! the command line or the configuration is wrong; 128 and the signal's number: see `signals`.

mod info;
mod key;
mod prove;
mod run;
mod serve;
mod signals;
mod supervisor;
mod tell;
mod validate;

use crate::{
    Host,
    config::{self, Config, Problem, Surroundings},
    observe::{self, LogFormat, Pace},
};
use clap::{Args, Parser, Subcommand};
use signals::Signals;
use std::{
    env, io,
    path::PathBuf,
    process::{self, ExitCode},
    sync::Arc,
    thread,
};
use tell::print;
use tokio::runtime::Runtime;

/// A host that gives every user a private, sandboxed, stateful copy of the functions they call.
#[derive(Debug, Parser)]
#[command(name = "carrel", version, about, after_help = EXIT_CODES)]
struct Cli {
    /// The form of lines on stderr, those of the log and all others; the variable RUST_LOG chooses which the log has (default: carrel=info,guest=info)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 a call failed, the host could not start, or the output could not be \
                          written; 2 the command line or the configuration is wrong; 143, 130 SIGTERM or Ctrl-C came \
                          before the host served.";

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
    /// Attack throw-away hosts built from a configuration, and report which limits hold
    Prove(prove::Arguments),
    /// Make an API key: the key goes to stdout, its hash, for the configuration, to stderr
    Key,
    /// Panics, to see how that is told
    #[cfg(debug_assertions)]
    #[command(hide = true)]
    Panic,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration, a YAML file; the folder configs/ of the project has some to start from
    #[arg(long = "config_file", visible_alias = "config-file", value_name = "FILE")]
    config_file: PathBuf,
    /// Set a key, given with dots, in place of what the file says of it: `--override limits.deadline 5s`
    #[arg(long = "override", num_args = 2, value_names = ["KEY", "VALUE"], allow_hyphen_values = true)]
    overrides: Vec<String>,
}

impl ConfigFile {
    /// The keys that are set on the command line, and what to.
    fn overrides(&self) -> Vec<(String, String)> {
        self.overrides.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }
}

/// A failure of a command, in words, with its exit code.
enum Error {
    /// The arguments are wrong, or ask for help.
    Arguments(clap::Error),
    /// The configuration is wrong.
    Config(config::Error),
    /// The command is refused until the configuration is changed.
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
    tell::set(tell::format_in(env::args_os()));
    let done = Cli::try_parse().map_err(Error::Arguments).and_then(run);
    let (code, why) = match done {
        Ok(code) => return code,
        Err(Error::Arguments(error)) => return arguments_are_wrong(&error),
        Err(Error::Config(error)) => {
            tell::problems(&error);
            return ExitCode::from(2);
        }
        Err(Error::Usage(why)) => (ExitCode::from(2), why),
        Err(Error::Other(why)) => (ExitCode::FAILURE, why),
    };
    tell::error(&why);
    code
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    tell::set(cli.log_format);
    let serves = matches!(cli.command, Command::Serve(_));
    // Others end by a signal's default action, which tells their parents more than an exit code. Process 1 has none.
    let _signals = (process::id() == 1 && !serves).then(Signals::take).transpose()?;
    let pace = if serves { Pace::Drop } else { Pace::Wait };
    // The attacking guests crash all the time, which is not worth logging.
    let usual = if matches!(cli.command, Command::Prove(_)) { "carrel=error" } else { "carrel=info,guest=info" };
    let log = observe::log(cli.log_format, pace, usual);
    match cli.command {
        Command::Serve(arguments) => serve::serve(arguments, Signals::take()?, &log),
        Command::Run(arguments) => run::run(arguments),
        Command::Validate(file) => validate::validate(file),
        Command::Info(arguments) => info::info(arguments),
        Command::Prove(arguments) => prove::prove(arguments),
        Command::Key => key::key(),
        #[cfg(debug_assertions)]
        #[allow(clippy::panic)]
        Command::Panic => panic!("asked for"),
    }
}

/// Help and the version are asked for, and output like any other.
fn arguments_are_wrong(error: &clap::Error) -> ExitCode {
    let written = match (error.use_stderr(), tell::is_json()) {
        (true, true) => {
            tell::error(error.render().to_string().trim_end().trim_start_matches("error: "));
            Ok(())
        }
        _ => error.print(),
    };
    match written {
        Err(why) if !error.use_stderr() && why.kind() != io::ErrorKind::BrokenPipe => {
            if let Error::Other(why) = tell::unwritten(&why) {
                tell::error(&why);
            }
            ExitCode::FAILURE
        }
        _ => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

/// Reads a configuration that may have problems, to be reported with those of its guests.
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
        // The number of tasks run before sockets are polled. By default 61: with guests that use their whole tick,
        // new requests would go unseen for 61 ticks.
        .event_interval(16)
        .build();
    built.map_err(|error| Error::Other(format!("the threads could not be started: {error}")))
}

/// Makes a host without a socket. All problems are reported at once, those of the file and those of the guests.
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
