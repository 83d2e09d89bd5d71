//! `carrel info`

use super::{
    error::Error,
    startup::{ConfigFile, Draft, runtime},
    tell::print,
};
use crate::{
    config::{Config, FunctionConfig, Problem},
    function::{Guest, load_guests},
    instance::Engine,
    scheduler::Lane,
};
use clap::Args;
use serde_json::{Value, json};
use std::{fmt::Write, path::PathBuf, process::ExitCode, sync::Arc};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration; without one, the guests that come with Carrel are listed
    #[arg(long = "config_file", visible_alias = "config-file", value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// As one JSON document, with all schemas
    #[arg(long)]
    json: bool,
}

/// Lists functions and guests; only what cannot be listed is an error. Functions are listed as the file has them, so
/// that an operator can look up a guest's schemas while its configuration is still wrong.
pub(super) fn info(arguments: Arguments) -> Result<ExitCode, Error> {
    let config = match arguments.config_file {
        Some(config_file) => {
            let Draft { config, .. } = ConfigFile { config_file, overrides: Vec::new() }.load()?;
            config
        }
        None => Config::empty(),
    };
    let mut problems = Vec::new();
    let lane = Lane::new(2, [1]);
    let engine = Engine::new(config.limits.memory_per_instance, config.limits.memory, &lane);
    let engine = engine.map_err(|why| config.source.error(vec![Problem::new(Default::default(), why)]))?;
    let guests = runtime(2)?.block_on(load_guests(&config.wanted(), &engine, &lane, |_| true, &mut problems));
    print(&if arguments.json { as_json(&config.functions, &guests) } else { as_text(&config.functions, &guests) })?;
    if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(config.source.error(problems).into()) }
}

fn as_json(functions: &[FunctionConfig], guests: &[Arc<Guest>]) -> String {
    let guests = guests.iter().map(|guest| {
        json!({
            "name": guest.name,
            "summary": guest.summary,
            "source": guest.source.to_string(),
            "bytes": guest.size,
            "state": { "kept": guest.code.state.is_ok(), "obstacles": guest.code.state.as_ref().err() },
            "schemas": guest.schemas(),
        })
    });
    let guests: Vec<Value> = guests.collect();
    let functions = functions
        .iter()
        .map(|it| json!({"name": it.name, "guest": it.guest, "config": it.config, "allow": it.grants.as_json()}));
    let functions: Vec<Value> = functions.collect();
    format!("{:#}", json!({"functions": functions, "guests": guests}))
}

/// The text for each guest whose state is found to be in its memories: it may still hold something of the host's.
const KEPT: &str = "all in its linear memories: an instance is parked and rolled back, unless it holds something of the \
                    host's then, such as a stream or an open file";

fn as_text(functions: &[FunctionConfig], guests: &[Arc<Guest>]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    if !functions.is_empty() {
        out.push_str("Functions\n");
    }
    for function in functions {
        let config = Value::Object(function.config.clone());
        let _ = writeln!(out, "  {}: {} {config}", function.name, function.guest);
        for line in function.grants.lines() {
            let _ = writeln!(out, "    may use {line}");
        }
    }
    let _ = write!(out, "{}Guests", if functions.is_empty() { "" } else { "\n" });
    for guest in guests {
        let _ = write!(out, "\n  {}: {}\n    {}, {} bytes", guest.name, guest.summary, guest.source, guest.size);
        let _ = match &guest.code.state {
            Ok(_) => write!(out, "\n    state: {}", KEPT),
            Err(why) => write!(out, "\n    state: cannot be parked nor rolled back: {}", why.join("; ")),
        };
        for (side, schema) in
            [("config", &guest.config_schema), ("input", &guest.input_schema), ("output", &guest.output_schema)]
        {
            let _ = write!(out, "\n    {side}: {}", fields(schema.value()));
        }
    }
    out
}

/// A schema's properties on a line; a `?` where one may be left out.
fn fields(schema: &Value) -> String {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return "any".into() };
    let required = |name: &str| {
        let names = schema.get("required").and_then(Value::as_array);
        names.is_some_and(|names| names.iter().any(|it| it == name))
    };
    let fields = properties.iter().map(|(name, schema)| {
        let ty = schema.get("type").map_or_else(
            || "any".to_owned(),
            |ty| match ty {
                Value::String(ty) => ty.clone(),
                other => other.to_string(),
            },
        );
        let optional = if required(name) { "" } else { "?" };
        let default = schema.get("default").map(|default| format!(" = {default}")).unwrap_or_default();
        format!("{name}{optional}: {ty}{default}")
    });
    fields.collect::<Vec<_>>().join(", ")
}
