//! `carrel info`

use super::{ConfigFile, Error, print, runtime, start};
use crate::Host;
use clap::Args;
use serde_json::{Value, json};
use std::{fmt::Write, process::ExitCode};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// As one JSON document, with all schemas
    #[arg(long)]
    json: bool,
}

pub(super) fn info(arguments: Arguments) -> Result<ExitCode, Error> {
    let host = start(arguments.config.load()?, 2, &runtime(2)?)?;
    print(&if arguments.json { as_json(&host) } else { as_text(&host) });
    Ok(ExitCode::SUCCESS)
}

fn as_json(host: &Host) -> String {
    let guests = host.catalog().guests().iter().map(|guest| {
        json!({
            "name": guest.name,
            "summary": guest.summary,
            "source": guest.source.to_string(),
            "bytes": guest.size,
            "schemas": guest.schemas(),
        })
    });
    let guests: Vec<Value> = guests.collect();
    let functions = host.catalog().functions().iter().map(|function| {
        let config: Value = serde_json::from_str(&function.config).unwrap_or(Value::Null);
        json!({"name": &*function.name, "guest": function.guest.name, "config": config})
    });
    let functions: Vec<Value> = functions.collect();
    format!("{:#}", json!({"functions": functions, "guests": guests}))
}

fn as_text(host: &Host) -> String {
    let mut out = String::from("Functions\n");
    // Writing to a string does not fail.
    for function in host.catalog().functions() {
        let _ = writeln!(out, "  {}: {} {}", function.name, function.guest.name, function.config);
    }
    let _ = write!(out, "\nGuests");
    for guest in host.catalog().guests() {
        let _ = write!(out, "\n  {}: {}\n    {}, {} bytes", guest.name, guest.summary, guest.source, guest.size);
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
