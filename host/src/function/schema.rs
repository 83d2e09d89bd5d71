//! JSON Schemas: parsing them, and telling what of a value does not fit.

use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;
use std::fmt;

/// A schema and what checks values against it.
pub struct Schema {
    value: Value,
    validator: Validator,
}

/// Where and how a value does not fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Misfit {
    /// From the top: names and indexes.
    pub path: Vec<Step>,
    /// How.
    pub kind: MisfitKind,
    /// The part of the value that does not fit; of what is missing, the object that lacks it.
    pub value: Value,
}

/// A step down into a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Into an object.
    Name(String),
    /// Into an array.
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

/// How a value does not fit.
#[derive(Debug, Clone, PartialEq)]
pub enum MisfitKind {
    /// A name is missing; the path leads to where it should be.
    Missing,
    /// A name is there that should not be; the path leads to it.
    Unexpected,
    /// It has none of these types.
    Type(Vec<&'static str>),
    /// Anything else, in words.
    Other(String),
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl Schema {
    /// From JSON text. A schema may refer to its own parts, and to nothing outside of itself.
    ///
    /// # Errors
    ///
    /// In words: it is no JSON, or no schema.
    pub fn parse(json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let validator = jsonschema::draft202012::new(&value).map_err(|error| error.to_string())?;
        Ok(Self { value, validator })
    }

    /// The schema itself.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// All that does not fit, in the order of the schema's properties; at most `most`.
    pub fn misfits(&self, value: &Value, most: usize) -> Vec<Misfit> {
        let mut misfits: Vec<_> = self.validator.iter_errors(value).take(most).flat_map(misfits_of).collect();
        let properties = self.value.get("properties").and_then(Value::as_object);
        let place = |misfit: &Misfit| match (misfit.path.first(), properties) {
            (Some(Step::Name(name)), Some(properties)) => {
                properties.keys().position(|key| key == name).unwrap_or(usize::MAX)
            }
            _ => 0,
        };
        misfits.sort_by_key(place);
        misfits.truncate(most);
        misfits
    }
}

fn misfits_of(error: ValidationError<'_>) -> Vec<Misfit> {
    let path: Vec<Step> = error
        .instance_path()
        .segments()
        .map(|segment| match segment {
            jsonschema::paths::LocationSegment::Property(name) => Step::Name(name.to_string()),
            jsonschema::paths::LocationSegment::Index(index) => Step::Index(index),
        })
        .collect();
    let value = error.instance().clone().into_owned();
    let below = |name: &str, kind: MisfitKind, value: Value| {
        let mut path = path.clone();
        path.push(Step::Name(name.to_owned()));
        Misfit { path, kind, value }
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            vec![below(property.as_str().unwrap_or_default(), MisfitKind::Missing, value)]
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let part = |name: &String| value.get(name).cloned().unwrap_or(Value::Null);
            unexpected.iter().map(|name| below(name, MisfitKind::Unexpected, part(name))).collect()
        }
        ValidationErrorKind::Type { kind } => {
            let types = match kind {
                TypeKind::Single(one) => vec![one.as_str()],
                TypeKind::Multiple(many) => many.iter().map(|one| one.as_str()).collect(),
            };
            vec![Misfit { path, kind: MisfitKind::Type(types), value }]
        }
        _ => vec![Misfit { path, kind: MisfitKind::Other(error.masked().to_string()), value }],
    }
}

/// Whether a schema is of an object: `{"type": "object"}`, or of nothing at all, as that of `()` is.
pub(super) fn describes_an_object(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(ty)) => ty == "object" || ty == "null",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn misfits_come_in_the_order_of_the_schema() -> Result<(), String> {
        let schema = Schema::parse(
            r#"{"type":"object","properties":{"b":{"type":"string"},"a":{"type":["integer","null"]},"c":{"maximum":3}},
                "required":["b","c"],"additionalProperties":false}"#,
        )?;
        let misfits = schema.misfits(&json!({"a": "x", "c": 9, "zzz": 1}), 10);
        let told: Vec<_> = misfits.iter().map(|it| (it.path[0].to_string(), &it.kind)).collect();
        assert_eq!(told[0], ("b".into(), &MisfitKind::Missing));
        assert_eq!(told[1], ("a".into(), &MisfitKind::Type(vec!["null", "integer"])));
        assert_eq!(told[2].0, "c");
        assert_eq!(told[3], ("zzz".into(), &MisfitKind::Unexpected));
        assert_eq!(schema.misfits(&json!({"b": "", "c": 1}), 10), []);
        Ok(())
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for wrong in ["", "{", "5", r#"{"type":"nonsense"}"#, r#"{"$ref":"https://example.com/schema"}"#] {
            assert!(Schema::parse(wrong).is_err(), "{wrong}");
        }
    }
}
