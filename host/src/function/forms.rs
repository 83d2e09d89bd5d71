//! A function's own keys in the forms that a file may have them in.
//!
//! NAT takes `"50"` for a number and `"yes"` for a boolean, since a variable's value stands in quotes whatever its
//! type. In NAT a class gives the type of a key; here the guest's schema does. A value is changed only where the
//! schema does not take its own type. A value that cannot be converted stays, to be refused as it was written.

use super::schema::Step;
use crate::settings::reader::{as_boolean, as_integer, as_number};
use serde_json::{Map, Value};

/// The most references that may lead to one another without a step into the value.
const REFERENCES: usize = 32;

/// Converts values to the types that the schema has for them. `word` returns the text of a plain scalar at a path
/// that was read as a boolean: where the schema takes text, `on` is one.
pub(super) fn adapt(schema: &Value, value: &mut Value, word: &dyn Fn(&[Step]) -> Option<String>) {
    Adapting { whole: schema, word, path: Vec::new() }.part(schema, value, 0);
}

struct Adapting<'a> {
    whole: &'a Value,
    word: &'a dyn Fn(&[Step]) -> Option<String>,
    path: Vec<Step>,
}

impl<'a> Adapting<'a> {
    fn part(&mut self, schema: &'a Value, value: &mut Value, references: usize) {
        let Some(schema) = schema.as_object().filter(|_| references < REFERENCES) else { return };
        if let Some(referred) = self.referred(schema) {
            self.part(referred, value, references + 1);
        }
        for of in ["allOf", "anyOf", "oneOf"] {
            let parts = schema.get(of).and_then(Value::as_array).into_iter().flatten();
            // Of several kinds of objects, the one that fits is not known yet.
            let fitting: Vec<_> = parts.filter(|part| of == "allOf" || self.may_hold(part, value)).collect();
            if of == "allOf" || fitting.len() == 1 {
                fitting.into_iter().for_each(|part| self.part(part, value, references + 1));
            }
        }
        match value {
            Value::Object(members) => self.members(schema, members),
            Value::Array(items) => {
                let first = schema.get("prefixItems").and_then(Value::as_array);
                let rest = schema.get("items");
                for (index, item) in items.iter_mut().enumerate() {
                    let Some(part) = first.and_then(|parts| parts.get(index)).or(rest) else { continue };
                    self.path.push(Step::Index(index));
                    self.part(part, item, 0);
                    self.path.pop();
                }
            }
            _ => {
                let types = self.types(schema, 0);
                let other = |types: &[&str]| self.other_form(types, value);
                if let Some(other) = other(&types) {
                    *value = other;
                }
            }
        }
    }

    fn members(&mut self, schema: &'a Map<String, Value>, members: &mut Map<String, Value>) {
        let known = schema.get("properties").and_then(Value::as_object);
        for (name, member) in members {
            let part = known.and_then(|known| known.get(name)).or_else(|| schema.get("additionalProperties"));
            let Some(part) = part else { continue };
            self.path.push(Step::Name(name.clone()));
            self.part(part, member, 0);
            self.path.pop();
        }
    }

    fn referred(&self, schema: &'a Map<String, Value>) -> Option<&'a Value> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.whole.pointer(pointer)
    }

    /// A container that a part of the schema may describe.
    fn may_hold(&self, part: &'a Value, value: &Value) -> bool {
        let wanted = match value {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            _ => return true,
        };
        let types = part.as_object().map(|part| self.types(part, 0)).unwrap_or_default();
        types.is_empty() || types.contains(&wanted)
    }

    /// The types that a part takes; none, if it does not say.
    fn types(&self, schema: &'a Map<String, Value>, references: usize) -> Vec<&'a str> {
        if references == REFERENCES {
            return Vec::new();
        }
        match schema.get("type") {
            Some(Value::String(one)) => return vec![one],
            Some(Value::Array(many)) => return many.iter().filter_map(Value::as_str).collect(),
            _ => {}
        }
        let of_value = |value: &Value| match value {
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Null => "null",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if let Some(one) = schema.get("const") {
            return vec![of_value(one)];
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return values.iter().map(of_value).collect();
        }
        let parts = ["anyOf", "oneOf"].into_iter().filter_map(|of| schema.get(of)?.as_array()).flatten();
        let parts = parts.filter_map(Value::as_object).chain(self.referred(schema).and_then(Value::as_object));
        let parts: Vec<_> = parts.map(|part| self.types(part, references + 1)).collect();
        // A part that says nothing takes all.
        if parts.iter().any(Vec::is_empty) {
            return Vec::new();
        }
        // Each once: parts that refer to themselves would make it as long as there are ways to them.
        let mut types = Vec::new();
        for ty in parts.concat() {
            if !types.contains(&ty) {
                types.push(ty);
            }
        }
        types
    }

    /// Returns the value converted to the first type that fits; `None` if it stays unchanged.
    fn other_form(&self, types: &[&str], value: &Value) -> Option<Value> {
        let has = |ty: &str| types.contains(&ty);
        let number = has("integer") || has("number");
        match value {
            Value::String(_) if !has("string") => {
                let integer = || as_integer(value).filter(|_| number).map(Value::from);
                let other = || as_number(value).filter(|_| has("number")).map(Value::from);
                let boolean = || as_boolean(value).filter(|_| has("boolean")).map(Value::from);
                integer().or_else(other).or_else(boolean)
            }
            Value::Number(it) if number => {
                let fraction = it.is_f64() && !has("number");
                as_integer(value).filter(|_| fraction).map(Value::from)
            }
            Value::Number(_) if has("boolean") => as_boolean(value).map(Value::from),
            Value::Bool(_) if has("string") && !has("boolean") => (self.word)(&self.path).map(Value::from),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adapted(schema: Value, mut value: Value) -> Value {
        adapt(&schema, &mut value, &|path| (path.len() == 1).then(|| "on".to_owned()));
        value
    }

    #[test]
    fn a_value_becomes_what_the_schema_takes() {
        let one = |schema: Value, value: Value| {
            let schema = json!({"type": "object", "properties": {"a": schema}});
            adapted(schema, json!({"a": value}))["a"].clone()
        };
        let (integer, number, boolean) =
            (json!({"type": "integer"}), json!({"type": "number"}), json!({"type": "boolean"}));
        for (schema, value, becomes) in [
            (&integer, json!("50"), json!(50)),
            (&integer, json!(" 5_0 "), json!(50)),
            (&integer, json!("50.0"), json!(50)),
            (&integer, json!(50.0), json!(50)),
            (&integer, json!("-3"), json!(-3)),
            (&integer, json!("50.5"), json!("50.5")),
            (&integer, json!(1.7), json!(1.7)),
            (&integer, json!(true), json!(true)),
            (&number, json!("1.5"), json!(1.5)),
            (&number, json!("1e3"), json!(1000.0)),
            (&number, json!("2"), json!(2)),
            (&number, json!("inf"), json!("inf")),
            (&boolean, json!("yes"), json!(true)),
            (&boolean, json!("0"), json!(false)),
            (&boolean, json!(1), json!(true)),
            (&boolean, json!(2), json!(2)),
            (&json!({"type": ["integer", "null"]}), json!("5"), json!(5)),
            (&json!({"type": ["integer", "string"]}), json!("5"), json!("5")),
            (&json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), json!("5"), json!(5)),
            (&json!({"anyOf": [{"type": "integer"}, {}]}), json!("5"), json!("5")),
            (&json!({"enum": ["on", "off"]}), json!(true), json!("on")),
            (&json!({"type": "string"}), json!(true), json!("on")),
            (&json!({"type": "string"}), json!(5), json!(5)),
            (&json!({}), json!("5"), json!("5")),
            (&json!(true), json!("5"), json!("5")),
        ] {
            assert_eq!(one(schema.clone(), value.clone()), becomes, "{schema}: {value}");
        }
    }

    #[test]
    fn the_parts_of_a_value_are_found_by_the_schema() {
        let schema = json!({
            "$defs": {"limit": {"type": "integer"}, "deep": {"properties": {"on": {"type": "boolean"}, "next": {"$ref": "#/$defs/deep"}}}},
            "properties": {
                "list": {"type": "array", "items": {"$ref": "#/$defs/limit"}},
                "pair": {"prefixItems": [{"type": "integer"}, {"type": "string"}]},
                "map": {"type": "object", "additionalProperties": {"type": "number"}},
                "either": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "integer"}}}]},
                "deep": {"allOf": [{"$ref": "#/$defs/deep"}]},
                "circle": {"$ref": "#/properties/circle"},
            },
        });
        let value = json!({
            "list": ["1", 2], "pair": ["1", "2"], "map": {"a": "1.5"}, "either": {"x": "3"},
            "deep": {"next": {"next": {"on": "yes"}}}, "circle": "5", "other": "5",
        });
        let becomes = json!({
            "list": [1, 2], "pair": [1, "2"], "map": {"a": 1.5}, "either": {"x": 3},
            "deep": {"next": {"next": {"on": true}}}, "circle": "5", "other": "5",
        });
        assert_eq!(adapted(schema, value), becomes);
    }
}
