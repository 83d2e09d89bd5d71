//! From a configuration's file to a host, for all commands.

use super::error::Error;
use crate::{
    Host,
    config::{Config, Problem, Surroundings},
};
use clap::Args;
use std::{path::PathBuf, sync::Arc, thread};
use tokio::runtime::Runtime;

#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The configuration, a YAML file; the folder configs/ of the project has some to start from
    #[arg(long = "config_file", visible_alias = "config-file", value_name = "FILE")]
    pub(super) config_file: PathBuf,
    /// Set a key, given with dots, in place of what the file says of it: `--override limits.deadline 5s`
    #[arg(long = "override", num_args = 2, value_names = ["KEY", "VALUE"], allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

impl ConfigFile {
    /// The keys that are set on the command line, and what to.
    fn overrides(&self) -> Vec<(String, String)> {
        self.overrides.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }
}

/// Reads a configuration that may have problems, to be reported with those of its guests.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
}

impl ConfigFile {
    pub(super) fn load(&self) -> Result<Draft, Error> {
        let overrides = self.overrides();
        let surroundings = Surroundings { overrides: &overrides, ..Surroundings::default() };
        let (config, problems) = Config::load_with_problems(&self.config_file, surroundings)?;
        Ok(Draft { config, problems })
    }
}

/// Threads that calls run on: as configured, or one for each core; two at least, since one is kept for short calls.
pub(super) fn threads(config: &Config) -> usize {
    let cores = || thread::available_parallelism().map_or(2, usize::from);
    config.general.front_end.workers.unwrap_or_else(cores).max(2)
}

pub(super) fn runtime(threads: usize) -> Result<Runtime, Error> {
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
pub(super) fn start(draft: Draft, threads: usize, runtime: &Runtime) -> Result<Arc<Host>, Error> {
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
