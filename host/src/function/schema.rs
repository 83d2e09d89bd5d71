//! JSON Schemas: parsing them, and telling what of a value does not fit.

use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;
use std::{collections::HashMap, fmt};

/// A schema and what checks values against it.
pub struct Schema {
    value: Value,
    validator: Validator,
    /// Parts that are looked at for one value, each as often as it is referred to.
    parts: usize,
    /// Parts of it refer to themselves, so that a deeper value is looked at more often.
    is_circular: bool,
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
        let (parts, is_circular) = parts(&value);
        if parts > QUICK {
            return Err("it refers to its own parts too often".into());
        }
        let validator = jsonschema::draft202012::new(&value).map_err(|error| error.to_string())?;
        Ok(Self { value, validator, parts, is_circular })
    }

    /// The schema itself.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Whether misfits of a text of so many bytes can be told in time.
    pub fn is_quick_for(&self, bytes: usize) -> bool {
        !self.is_circular && self.parts.saturating_mul(bytes) <= QUICK
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

/// Parts of a schema times bytes of a value for which misfits are told: about a second's worth.
const QUICK: usize = 20_000_000;

/// Counts the parts of a schema, each as often as it is referred to, and tells whether any refers to itself. A schema is
/// its guest's: with a few definitions, each of which refers to the next one twice, to look at a value takes years.
fn parts(schema: &Value) -> (usize, bool) {
    let mut references = References { whole: schema, parts: HashMap::new(), is_circular: false };
    (references.count(schema), references.is_circular)
}

struct References<'a> {
    whole: &'a Value,
    /// The parts of what is referred to; `None`, while they are counted.
    parts: HashMap<&'a str, Option<usize>>,
    is_circular: bool,
}

impl<'a> References<'a> {
    fn count(&mut self, part: &'a Value) -> usize {
        match part {
            Value::Array(items) => items.iter().fold(1, |parts: usize, item| parts.saturating_add(self.count(item))),
            Value::Object(members) => members.iter().fold(1, |parts: usize, (name, member)| {
                parts.saturating_add(match (name.as_str(), member) {
                    ("$ref" | "$dynamicRef", Value::String(reference)) => self.referred(reference),
                    // What nothing refers to is not looked at.
                    ("$defs" | "definitions", _) => 0,
                    _ => self.count(member),
                })
            }),
            _ => 1,
        }
    }

    fn referred(&mut self, reference: &'a str) -> usize {
        match self.parts.get(reference) {
            Some(Some(parts)) => return *parts,
            Some(None) => {
                self.is_circular = true;
                return 1;
            }
            None => {}
        }
        self.parts.insert(reference, None);
        let part = reference.strip_prefix('#').and_then(|pointer| self.whole.pointer(pointer));
        let parts = match part {
            Some(part) => self.count(part),
            // A name that is none of a place in it could be any part.
            None => {
                self.is_circular = true;
                1
            }
        };
        self.parts.insert(reference, Some(parts));
        parts
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
    fn a_schema_that_would_take_for_ever_is_refused_or_not_used_for_callers() -> Result<(), String> {
        let doubling = |times: usize| {
            let pair =
                |n: usize| json!({"allOf": [{"$ref": format!("#/$defs/{n}")}, {"$ref": format!("#/$defs/{n}")}]});
            let mut definitions: serde_json::Map<_, _> = (0..times).map(|n| (n.to_string(), pair(n + 1))).collect();
            definitions.insert(times.to_string(), json!({"type": "object"}));
            json!({"$ref": "#/$defs/0", "$defs": definitions}).to_string()
        };
        assert!(Schema::parse(&doubling(60)).is_err_and(|why| why.contains("too often")));
        let (small, large) = (Schema::parse(&doubling(3))?, Schema::parse(&doubling(15))?);
        assert!(small.is_quick_for(60_000) && large.is_quick_for(100) && !large.is_quick_for(60_000));
        let list = json!({"properties": {"next": {"$ref": "#"}}, "required": ["a"]});
        let list = Schema::parse(&list.to_string())?;
        assert!(!list.is_quick_for(1) && list.misfits(&json!({}), 1).len() == 1);
        Ok(())
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for wrong in ["", "{", "5", r#"{"type":"nonsense"}"#, r#"{"$ref":"https://example.com/schema"}"#] {
            assert!(Schema::parse(wrong).is_err(), "{wrong}");
        }
    }
}
