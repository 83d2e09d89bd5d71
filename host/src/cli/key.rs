//! `carrel key`

use super::{Error, print, say};
use crate::identity;
use std::process::ExitCode;

pub(super) fn key() -> Result<ExitCode, Error> {
    let (key, hash) = identity::generate();
    print(&key);
    say(
        "the caller sends it as `X-API-Key`, or as `Authorization: Bearer`; it is kept nowhere. Its hash is for the list",
    );
    say(&format!("`api_keys` of the configuration: {hash}"));
    Ok(ExitCode::SUCCESS)
}
