//! The misfits of an input, as NAT's list of `{type, loc, msg, input}` (which is FastAPI's and pydantic's).
//!
//! On the good path only the guest reads the input. An input that the guest has refused is read here, to find out if
//! it is JSON, and fits the guest's own schema. If both are true, the answer has the guest's own words.
//!
//! It has them too if finding more would take too long: reading an input is the host's work, which no fuel pays for,
//! by an untrusted schema. So it is done only for known callers, and counts as a call of theirs; never on a thread
//! that serves others; and only a few at once. A check cannot be stopped; [`Schema::is_quick_for`] makes sure that it
//! ends soon.

use super::{asked::AskedCall, echo::Echo, json};
use crate::{
    Host,
    function::schema::{Misfit, MisfitKind, Schema, Step},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

/// Wrong fields that are listed.
const MOST: usize = 20;
/// Bytes of an input from which on only the guest's own words are sent: looking for wrong fields takes a thread's
/// time, and sending them back a caller's.
const LARGE: usize = 64 << 10;
/// The longest time that a caller waits to be told more than the guest's own words.
const PATIENCE: Duration = Duration::from_secs(1);

/// The list for an input that a function refused with these words, as JSON text. Ends by the request's deadline.
pub(super) async fn detail(host: &Arc<Host>, position: usize, asked: &AskedCall, why: &str) -> String {
    let reading = async {
        let _visit = host.registry().visit(Some(asked.tenant)).ok()?;
        let place = host.readings().place(asked.tenant).await?;
        let (host, input, why) = (host.clone(), asked.input.clone(), why.to_owned());
        // The place is free again when it ends, also where nobody waits for it any more.
        let read = move || {
            let _place = place;
            wrong_fields(&host.catalog().functions()[position].guest.input_schema, &input, &why)
        };
        spawn_blocking(read).await.ok()
    };
    let end = asked.deadline.min(Instant::now() + PATIENCE);
    timeout_at(end, reading).await.ok().flatten().unwrap_or_else(|| words(why))
}

/// The list that has only the guest's own words.
pub(super) fn words(why: &str) -> String {
    list([item("value_error", &[], why, None)])
}

fn wrong_fields(schema: &Schema, input: &str, why: &str) -> String {
    if input.is_empty() {
        return list([item("missing", &[], "Field required", None)]);
    }
    if let Err(broken) = json::check(input) {
        let mut item = json!({"type": "json_invalid", "loc": ["body", broken.at], "msg": "JSON decode error"});
        item["input"] = json!({});
        item["ctx"] = json!({"error": broken.how});
        return list([item.to_string()]);
    }
    let echo = if input.len() <= LARGE { Echo::parse(input) } else { None };
    let Some(echo) = echo else { return words(why) };
    let value = echo.value();
    if !schema.is_quick_for(&value) {
        return words(why);
    }
    let misfits = schema.misfits(&value, MOST);
    if misfits.is_empty() {
        return list([item("value_error", &[], why, Some(&echo))]);
    }
    list(misfits.into_iter().map(|misfit| told(misfit, &echo)))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn told(misfit: Misfit, whole: &Echo<'_>) -> String {
    let Misfit { path, kind, .. } = misfit;
    // For a missing name, the object that lacks it is shown.
    let input = if kind == MisfitKind::Missing { path.split_last().map_or(&[][..], |(_, above)| above) } else { &path };
    let (ty, msg) = match kind {
        MisfitKind::Missing => ("missing", "Field required".to_owned()),
        MisfitKind::Unexpected => ("extra_forbidden", "Extra inputs are not permitted".to_owned()),
        MisfitKind::Type(types) => {
            let (ty, msg) = wrong_type(&types, path.is_empty());
            (ty, msg.to_owned())
        }
        MisfitKind::Other(why) => ("value_error", why),
    };
    item(ty, &path, &msg, whole.at(input))
}

fn wrong_type(types: &[&'static str], whole: bool) -> (&'static str, &'static str) {
    match types.iter().copied().find(|ty| *ty != "null").unwrap_or("null") {
        "object" if whole => {
            ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
        }
        "object" => ("dict_type", "Input should be a valid dictionary"),
        "array" => ("list_type", "Input should be a valid list"),
        "string" => ("string_type", "Input should be a valid string"),
        "integer" => ("int_type", "Input should be a valid integer"),
        "number" => ("float_type", "Input should be a valid number"),
        "boolean" => ("bool_type", "Input should be a valid boolean"),
        _ => ("none_required", "Input should be None"),
    }
}

fn item(ty: &str, path: &[Step], msg: &str, input: Option<&Echo<'_>>) -> String {
    let steps = path.iter().map(|step| match step {
        Step::Name(name) => Value::from(name.as_str()),
        Step::Index(index) => Value::from(*index),
    });
    let loc: Value = std::iter::once(Value::from("body")).chain(steps).collect();
    let mut item = format!(r#"{{"type":"{ty}","loc":{loc},"msg":{},"input":"#, Value::from(msg));
    match input {
        Some(echo) => echo.write(&mut item),
        None => item.push_str("null"),
    }
    item.push('}');
    item
}
