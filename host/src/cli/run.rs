//! `carrel run`

use super::{
    error::Error,
    startup::{ConfigFile, runtime, start, threads},
    tell::{self, print},
};
use crate::{
    call::{Answer, Failure},
    config::WORKFLOW,
    identity::User,
    settings::without_mark,
};
use clap::Args;
use std::{
    io::{self, Read},
    process::ExitCode,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The function's input, one JSON document; `-` reads it from stdin
    #[arg(long, value_name = "JSON")]
    input: String,
    /// The user whose call it is
    #[arg(long, default_value = "local")]
    user: String,
    /// The function to call; the workflow, if none is named
    #[arg(long, default_value = WORKFLOW)]
    function: String,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let draft = arguments.config.load()?;
    let threads = threads(&draft.config);
    let runtime = runtime(threads)?;
    let input = input(arguments.input)?;
    let host = start(draft, threads, &runtime)?;
    let Some(position) = host.catalog().position(&arguments.function) else {
        let names: Vec<_> = host.catalog().functions().iter().map(|function| &*function.name).collect();
        let why = format!("there is no function `{}`; there are {}", arguments.function, names.join(", "));
        return Err(Error::Other(why));
    };
    let answer = runtime.block_on(async {
        let handle = host.registry().session(User::from_credential(&arguments.user));
        let handle = handle.map_err(|error| Error::Other(error.to_string()))?;
        Ok::<Answer, Error>(handle.call(position, input.into(), None).await)
    })?;
    match answer.result {
        Ok(output) => {
            print(&output)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            tell::error(&match failure {
                Failure::Refused(refusal) => refusal.to_string(),
                Failure::InvalidInput(why) => format!("invalid_input: {why}"),
                Failure::Failed(why) => format!("function_failed: {why}"),
                Failure::Stopped { stop, .. } => stop.to_string(),
            });
            Ok(ExitCode::FAILURE)
        }
    }
}

fn input(given: String) -> Result<String, Error> {
    if given != "-" {
        return Ok(given);
    }
    let mut input = String::new();
    let read = io::stdin().read_to_string(&mut input);
    read.map_err(|error| Error::Other(format!("the input cannot be read from stdin: {error}")))?;
    Ok(without_mark(&input).to_owned())
}
