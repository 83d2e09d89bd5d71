//! YAML to values, and from a key back to its line. The only file that names `serde_yaml`, which is archived
//! upstream: whoever replaces it has this file to change.
//!
//! Values come as [`serde_json::Value`], whose maps keep their order, since a function's configuration goes on to its
//! guest as JSON.

use super::KeyPath;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::Cell, fmt};

/// What is wrong with a file's YAML, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

/// Parses a document. An empty one is an empty map.
pub(super) fn parse(text: &str) -> Result<Value, SyntaxError> {
    let document: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| {
        let line = line(text, &error);
        let message = error.to_string();
        // The library says "... at line 3 column 5"; the line is told apart.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        SyntaxError { line, message }
    })?;
    match to_json(document) {
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
        Ok(value) => Ok(value),
        Err(message) => Err(SyntaxError { line: None, message }),
    }
}

/// Where an error is. At the end of a text the parser is a line further, and it ends lines at more characters than
/// editors do.
fn line(text: &str, error: &serde_yaml::Error) -> Option<usize> {
    error.location().map(|location| location.line().min(text.lines().count().max(1)))
}

fn to_json(value: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(it) => Value::Bool(it),
        Yaml::String(it) => Value::String(it),
        Yaml::Number(it) => match (it.as_u64(), it.as_i64(), it.as_f64().and_then(Number::from_f64)) {
            (Some(it), _, _) => it.into(),
            (_, Some(it), _) => it.into(),
            (_, _, Some(it)) => Value::Number(it),
            _ => return Err(format!("{it} is not a number that JSON has")),
        },
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Yaml::String(it) => it,
                    Yaml::Number(it) => it.to_string(),
                    Yaml::Bool(it) => it.to_string(),
                    other => return Err(format!("a key must be text, and this one is {other:?}")),
                };
                map.insert(key, to_json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => return Err(format!("the tag {} means nothing here", tagged.tag)),
    })
}

/// The line on which a key stands, counted from 1; of a path that is not there, that of its nearest parent.
///
/// The parser gives lines only with errors. So this reads the text once more, walks down the path, and fails on
/// purpose where the path ends. It is called only for files that are refused.
pub(super) fn line_of(text: &str, path: &KeyPath) -> Option<usize> {
    let mut keys = path.keys();
    loop {
        let walk = Walk { keys, found: &Cell::new(false) };
        let failed = walk.deserialize(serde_yaml::Deserializer::from_str(text));
        let found = walk.found.get();
        match failed {
            Err(error) if found => return line(text, &error),
            _ => keys = keys.split_last()?.1,
        }
    }
}

/// Reads on to the end of the path, and fails there.
#[derive(Clone, Copy)]
struct Walk<'a> {
    keys: &'a [String],
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rest of the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.keys.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(hit) = map.next_key_seed(Key { wanted, last: rest.is_empty(), found: self.found })? {
            match hit {
                true => map.next_value_seed(Walk { keys: rest, ..self })?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.keys.split_first() else { return Err(A::Error::custom("here")) };
        let mut index = 0;
        loop {
            if index.to_string() == *wanted {
                if rest.is_empty() {
                    seq.next_element_seed(Here(self.found))?;
                } else {
                    seq.next_element_seed(Walk { keys: rest, ..self })?;
                }
                return Err(A::Error::custom("not there"));
            }
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A key of a map: whether it is the wanted one. Fails on it if the path ends there.
struct Key<'a> {
    wanted: &'a str,
    last: bool,
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.last {
            self.found.set(true);
            return Err(E::custom("here"));
        }
        Ok(key == self.wanted)
    }
}

/// Fails on whatever comes.
struct Here<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Here<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! fail_here {
    ($($visit:ident($($value:ty)?);)*) => {
        $(fn $visit<E: serde::de::Error>(self $(, _: $value)?) -> Result<(), E> {
            self.0.set(true);
            Err(E::custom("here"))
        })*
    };
}

impl<'de> Visitor<'de> for Here<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fail_here! { visit_bool(bool); visit_i64(i64); visit_u64(u64); visit_f64(f64); visit_str(&str); visit_unit(); }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.0.set(true);
        Err(A::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.0.set(true);
        Err(A::Error::custom("here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a: 1\nb:\n  c:\n    - x: 1\n      y: 2\n    - z\n  \"d\": [1,\n    2]\n\ne: {f: 1}\n";

    #[test]
    fn the_line_of_a_key_is_where_it_stands() {
        let at = |path: &str| line_of(TEXT, &KeyPath::parse(path));
        assert_eq!(at("a"), Some(1));
        assert_eq!(at("b"), Some(2));
        assert_eq!(at("b.c"), Some(3));
        assert_eq!(at("b.c.0"), Some(4));
        assert_eq!(at("b.c.0.y"), Some(5));
        assert_eq!(at("b.c.1"), Some(6));
        assert_eq!(at("b.d"), Some(7));
        assert_eq!(at("b.d.1"), Some(8));
        assert_eq!(at("e.f"), Some(10));
    }

    #[test]
    fn of_a_key_that_is_not_there_the_nearest_parents_line_is_told() {
        assert_eq!(line_of(TEXT, &KeyPath::parse("b.c.0.nope.deeper")), Some(4));
        assert_eq!(line_of(TEXT, &KeyPath::parse("nope")), None);
        assert_eq!(line_of("", &KeyPath::parse("a")), None);
    }

    #[test]
    fn maps_keep_their_order_and_a_key_given_twice_is_an_error() {
        let value = parse("z: 1\na: [1.5, yes, ~, -3]\n").unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(value.to_string(), r#"{"z":1,"a":[1.5,"yes",null,-3]}"#);
        let error = parse("a: 1\nb: 2\na: 3\n").err();
        assert!(error.is_some_and(|error| error.message.contains("duplicate")));
    }
}
