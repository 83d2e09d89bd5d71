//! `carrel key`

use super::{error::Error, tell};
use crate::identity;
use serde_json::json;
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::ExitCode,
};

/// Makes a key, and prints it and its hash. If the key cannot be printed, its hash is not printed either, so that
/// nobody keeps the hash of a key that nobody has.
pub(super) fn key() -> Result<ExitCode, Error> {
    let (key, hash) = identity::generate();
    if is_thrown_away().unwrap_or(false) {
        return Err(Error::Other("the key would be lost: stdout is closed, or leads to /dev/null".into()));
    }
    tell::output(&key).map_err(|error| tell::unwritten(&error))?;
    let text = format!(
        "the caller sends it as `X-API-Key`, or as `Authorization: Bearer`; it is kept nowhere. Its hash is for the list\n\
         `api_keys` of the configuration: {hash}"
    );
    let told = tell::event(&text, "a key was made: its hash is for `api_keys`", json!({"hash": hash.to_string()}));
    told.map_err(|error| Error::Other(format!("the key's hash could not be written to stderr: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// True if stdout leads nowhere. The standard library opens /dev/null in the place of a stdout that is closed.
fn is_thrown_away() -> io::Result<bool> {
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata()?;
    let nowhere = fs::metadata("/dev/null")?;
    Ok(stdout.rdev() == nowhere.rdev() && stdout.mode() == nowhere.mode())
}
