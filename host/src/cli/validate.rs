//! `carrel validate`

use super::{
    error::Error,
    startup::{ConfigFile, runtime, start},
    tell::print,
};
use std::process::ExitCode;

pub(super) fn validate(file: ConfigFile) -> Result<ExitCode, Error> {
    let draft = file.load()?;
    let name = draft.config.source.file.display().to_string();
    let host = start(draft, 2, &runtime(2)?)?;
    let functions = host.catalog().functions().len();
    let guests = host.catalog().guests().len();
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    print(&format!("{name} is valid: {}, {}", counted(functions, "function"), counted(guests, "guest")))?;
    Ok(ExitCode::SUCCESS)
}
