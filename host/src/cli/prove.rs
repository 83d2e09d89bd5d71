//! `carrel prove`

use super::{
    error::Error,
    startup::{ConfigFile, runtime, threads},
    tell::{self, print},
};
use crate::{limits::raise_descriptors, prove};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// As one JSON document, with all that was measured
    #[arg(long)]
    json: bool,
}

pub(super) fn prove(arguments: Arguments) -> Result<ExitCode, Error> {
    let draft = arguments.config.load()?;
    if !draft.problems.is_empty() {
        return Err(draft.config.source.error(draft.problems).into());
    }
    // Limits are met before what the system allows.
    let _ = raise_descriptors(draft.config.limits.connections, draft.config.limits.open_files);
    let threads = threads(&draft.config);
    let runtime = runtime(threads)?;
    let file = draft.config.source.file.display().to_string();
    let _ = tell::event(&format!("attacking a host made of {file}"), "attacking a host", json!({"file": file}));
    let report = runtime.block_on(prove::prove(draft.config, threads))?;
    print(&if arguments.json { format!("{:#}", report.as_json()) } else { report.to_string() })?;
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
