//! What of an input does not fit, as NAT's list of `{type, loc, msg, input}` (which is FastAPI's and pydantic's).
//!
//! On the good path nobody but the guest reads the input. Only what a guest has refused is read here: whether it is
//! JSON, and whether it fits the guest's own schema. Where it does both, the guest's own words are told.

use super::json;
use crate::function::schema::{Misfit, MisfitKind, Schema, Step};
use serde_json::{Value, json};

/// Wrong fields that are told.
const MOST: usize = 20;
/// Bytes of an input from which on only the guest's own words are told: to look for each wrong field takes a thread's
/// time, and to send it back a caller's.
pub(super) const LARGE: usize = 64 << 10;

/// The list.
pub(super) fn detail(schema: &Schema, input: &str, why: &str) -> Vec<Value> {
    if input.is_empty() {
        return vec![item("missing", &[], "Field required", Value::Null)];
    }
    if let Err(broken) = json::check(input) {
        let mut item = json!({"type": "json_invalid", "loc": ["body", broken.at], "msg": "JSON decode error"});
        item["input"] = json!({});
        item["ctx"] = json!({"error": broken.how});
        return vec![item];
    }
    if input.len() > LARGE || !schema.is_quick_for(input.len()) {
        return vec![item("value_error", &[], why, Value::Null)];
    }
    // What is JSON and cannot be read all the same has a number that no machine has room for.
    let value = serde_json::from_str::<Value>(input).unwrap_or(Value::Null);
    let misfits = schema.misfits(&value, MOST);
    if misfits.is_empty() {
        return vec![item("value_error", &[], why, value)];
    }
    misfits.into_iter().map(told).collect()
}

fn told(misfit: Misfit) -> Value {
    let Misfit { path, kind, value } = misfit;
    let (ty, msg) = match kind {
        MisfitKind::Missing => ("missing", "Field required".to_owned()),
        MisfitKind::Unexpected => ("extra_forbidden", "Extra inputs are not permitted".to_owned()),
        MisfitKind::Type(types) => {
            let (ty, msg) = wrong_type(&types, path.is_empty());
            (ty, msg.to_owned())
        }
        MisfitKind::Other(why) => ("value_error", why),
    };
    item(ty, &path, &msg, value)
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

fn item(ty: &str, path: &[Step], msg: &str, input: Value) -> Value {
    let steps = path.iter().map(|step| match step {
        Step::Name(name) => Value::from(name.as_str()),
        Step::Index(index) => Value::from(*index),
    });
    let loc: Vec<Value> = std::iter::once(Value::from("body")).chain(steps).collect();
    json!({"type": ty, "loc": loc, "msg": msg, "input": input})
}
