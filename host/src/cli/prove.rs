//! `carrel prove`

use super::{ConfigFile, Error, print, runtime, tell, threads};
use crate::{limits::raise_descriptors, prove};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Takes this limit off the attacked host, to see that it is noticed
    #[cfg(debug_assertions)]
    #[arg(long, value_name = "KEY", hide = true)]
    break_limit: Option<String>,
}

impl Arguments {
    #[cfg(debug_assertions)]
    fn broken(&self) -> Option<&str> {
        self.break_limit.as_deref()
    }

    /// Limits can be taken off in builds for tests only.
    #[cfg(not(debug_assertions))]
    fn broken(&self) -> Option<&str> {
        None
    }
}

pub(super) fn prove(arguments: Arguments) -> Result<ExitCode, Error> {
    let draft = arguments.config.load()?;
    if !draft.problems.is_empty() {
        return Err(draft.config.source.error(draft.problems).into());
    }
    // Limits are met before what the system allows.
    let _ = raise_descriptors(&draft.config.limits);
    let threads = threads(&draft.config);
    let runtime = runtime(threads)?;
    let file = draft.config.source.file.display().to_string();
    let _ = tell::event(&format!("attacking a host made of {file}"), "attacking a host", json!({"file": file}));
    let report = runtime.block_on(prove::prove(draft.config, threads, arguments.broken()))?;
    print(&report.to_string())?;
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
