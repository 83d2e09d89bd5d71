//! What of an input does not fit, as NAT's list of `{type, loc, msg, input}` (which is FastAPI's and pydantic's).
//!
//! On the good path nobody but the guest reads the input. Only what a guest has refused is read here: whether it is
//! JSON, and whether it fits the guest's own schema. Where it does both, the guest's own words are told.

use super::{echo::Echo, json};
use crate::function::schema::{Misfit, MisfitKind, Schema, Step};
use serde_json::{Value, json};

/// Wrong fields that are told.
const MOST: usize = 20;
/// Bytes of an input from which on only the guest's own words are told: to look for each wrong field takes a thread's
/// time, and to send it back a caller's.
const LARGE: usize = 64 << 10;

/// The list, as JSON text.
pub(super) fn detail(schema: &Schema, input: &str, why: &str) -> String {
    if input.is_empty() {
        return list([item("missing", &[], "Field required", None)]);
    }
    if let Err(broken) = json::check(input) {
        let mut item = json!({"type": "json_invalid", "loc": ["body", broken.at], "msg": "JSON decode error"});
        item["input"] = json!({});
        item["ctx"] = json!({"error": broken.how});
        return list([item.to_string()]);
    }
    let echo = if is_told(schema, input) { Echo::read(input) } else { None };
    let Some(echo) = echo else {
        return list([item("value_error", &[], why, None)]);
    };
    let misfits = schema.misfits(&echo.value(), MOST);
    if misfits.is_empty() {
        return list([item("value_error", &[], why, Some(&echo))]);
    }
    list(misfits.into_iter().map(|misfit| told(misfit, &echo)))
}

/// True if an input is JSON that fits, or if that is not looked at.
pub(super) fn fits(schema: &Schema, input: &str) -> bool {
    let fits = |echo: Echo<'_>| schema.misfits(&echo.value(), 1).is_empty();
    !is_told(schema, input) || Echo::read(input).is_some_and(fits)
}

fn is_told(schema: &Schema, input: &str) -> bool {
    input.len() <= LARGE && schema.is_quick_for(input.len())
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn told(misfit: Misfit, whole: &Echo<'_>) -> String {
    let Misfit { path, kind, .. } = misfit;
    // Of what is missing, the object that lacks it is told.
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
