//! The commands. Data goes to stdout, everything else to stderr: see `tell`.
//!
//! Exit codes: 0 done; 1 a call failed, or the host could not do what was asked, or its output could not be written; 2
//! the command line or the configuration is wrong; 128 and the signal's number: see `signals`.

mod error;
mod info;
mod key;
mod prove;
mod run;
mod serve;
mod signals;
mod startup;
mod supervisor;
mod tell;
mod validate;

use crate::observe::{self, LogFormat, LogPace};
use clap::{Parser, Subcommand};
use error::Error;
use signals::Signals;
use startup::ConfigFile;
use std::{
    env, io,
    process::{self, ExitCode},
};

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
    let pace = if serves { LogPace::Drop } else { LogPace::Wait };
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
