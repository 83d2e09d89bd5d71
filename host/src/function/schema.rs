//! JSON Schemas: parsing them, and finding the parts of a value that do not fit.
//!
//! A schema comes from a guest, which is not trusted. A check of a value cannot be stopped once begun, and finds all
//! errors before it reports the first. So its time and memory are bounded beforehand, by the schema's weight times
//! the value's:
//!
//! | what a schema can do | what bounds it |
//! |---|---|
//! | patterns that go back and forth | the engine is linear, and knows neither look-around nor back-references: refused |
//! | patterns that are large | each counts by the size that it has when it is compiled; too large ones are refused |
//! | parts that are referred to again and again | each counts as often as it is referred to |
//! | parts that refer to themselves, or that cannot be followed | never checked for callers |
//! | branches (`anyOf` and the like) in branches | count once for each level, `unevaluated..` twice the level below |
//! | long texts, `enum`, `const` | texts of a schema count by their length |
//! | an error for each part of a value, with its path | parts of a value count with the length of their paths |

use jsonschema::{
    PatternOptions, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::{Map, Value};
use std::{collections::HashMap, fmt};

/// Bytes of a schema's text.
const SIZE: usize = 256 << 10;
/// The weight at which a schema is refused: its checker has as many parts.
const HEAVIEST: usize = 10_000_000;
/// The most weight of a schema, times that of a value, for which the value is checked: at worst some hundredths of a
/// second, and less than 50 MB.
const QUICK: usize = 50_000_000;
/// Bytes of one compiled pattern, and of all of a schema.
const PATTERN: usize = 256 << 10;
const PATTERNS: usize = 1 << 20;
/// Bytes of a pattern's cache, which makes it quicker than its worst case.
const PATTERN_CACHE: usize = 64 << 10;
/// Bytes of a compiled pattern that weigh as much as a part of a schema: all of it may have to look at each byte of a
/// text.
const PATTERN_UNIT: usize = 64;
/// The weight of an error, in bytes.
const ERROR: usize = 256;

/// A schema, and its checker.
pub struct Schema {
    value: Value,
    validator: Validator,
    /// The parts that are looked at for one value, each counted as often as it is looked at.
    weight: usize,
    /// True if the weight means nothing, since parts refer to themselves or to something that cannot be followed.
    is_circular: bool,
}

/// A part of a value that does not fit its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Misfit {
    /// The path from the top: names and indexes.
    pub path: Vec<Step>,
    pub kind: MisfitKind,
    /// The part that does not fit; for a missing name, the object that lacks it.
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

#[derive(Debug, Clone, PartialEq)]
pub enum MisfitKind {
    /// A name is missing; the path leads to where it should be.
    Missing,
    /// A name is there that should not be; the path leads to it.
    Unexpected,
    /// The value has none of these types.
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
    /// Parses JSON text. A schema may refer to its own parts, and to nothing outside of itself.
    ///
    /// # Errors
    ///
    /// In words: the text is no JSON, or no schema, or none that values can be checked against in time.
    pub fn parse(json: &str) -> Result<Self, String> {
        if json.len() > SIZE {
            return Err(format!("it has {} bytes, and {SIZE} are allowed", json.len()));
        }
        let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let Weighed { weight, is_circular, patterns } = weigh(&value);
        if weight > HEAVIEST {
            return Err("it refers to its own parts too often".into());
        }
        if patterns > PATTERNS {
            return Err(format!(
                "its patterns take {patterns} bytes when they are compiled, and {PATTERNS} are allowed"
            ));
        }
        let linear = PatternOptions::regex().size_limit(PATTERN).dfa_size_limit(PATTERN_CACHE);
        let validator = jsonschema::draft202012::options().with_pattern_options(linear).build(&value);
        let validator = validator.map_err(|error| match (error.kind(), error.instance().as_str()) {
            (ValidationErrorKind::Format { format }, Some(pattern)) if format == "regex" => format!(
                "its pattern {pattern:?} cannot be matched in a time that grows with the text only: it is none, or too \
                 large, or has look-around (`(?=`) or back-references (`\\1`), which the host does not know"
            ),
            _ => error.to_string(),
        })?;
        Ok(Self { value, validator, weight, is_circular })
    }

    /// The schema itself.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// True if a value can be checked in time.
    pub fn is_quick_for(&self, value: &Value) -> bool {
        !self.is_circular && self.weight.saturating_mul(weight_of(value, 0)) <= QUICK
    }

    /// Finds all misfits, at most `most`, in the order of the schema's properties.
    pub fn misfits(&self, value: &Value, most: usize) -> Vec<Misfit> {
        let mut misfits: Vec<_> =
            self.validator.iter_errors(value).take(most).flat_map(|error| misfits_of(&error, most)).collect();
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

/// The weight of a value at a path of so many bytes: the bytes of its texts, and those of an error in each of its
/// parts.
fn weight_of(value: &Value, path: usize) -> usize {
    let here = ERROR + path;
    match value {
        Value::String(text) => here + text.len(),
        Value::Array(items) => items.iter().fold(here, |sum, item| sum + weight_of(item, path + 8)),
        // A path has some characters of a name escaped.
        Value::Object(members) => members
            .iter()
            .fold(here, |sum, (name, member)| sum + name.len() + weight_of(member, path + 1 + 2 * name.len())),
        _ => here,
    }
}

/// A schema's weight.
struct Weighed {
    weight: usize,
    is_circular: bool,
    /// Bytes of its compiled patterns.
    patterns: usize,
}

/// Weighs a schema. A hostile one needs few definitions, each of which refers to the next one twice, to make a check
/// take years.
fn weigh(schema: &Value) -> Weighed {
    let mut scales =
        Scales { whole: schema, parts: HashMap::new(), compiled: HashMap::new(), is_circular: false, depth: 0 };
    let SchemaPart { weight, levels } = scales.part(schema);
    Weighed {
        weight: weight.saturating_mul(1 + levels),
        is_circular: scales.is_circular,
        patterns: scales.compiled.values().sum(),
    }
}

/// The weight of a part of a schema.
#[derive(Clone, Copy)]
struct SchemaPart {
    /// The part's own parts, each counted as often as it is looked at to decide if a value fits.
    weight: usize,
    /// Branches in branches. A branch is first checked for whether it fits, and then again to find its misfits.
    levels: usize,
}

struct Scales<'a> {
    whole: &'a Value,
    /// The parts that are referred to; `None` while being weighed.
    parts: HashMap<&'a str, Option<SchemaPart>>,
    /// The sizes of patterns.
    compiled: HashMap<&'a str, usize>,
    is_circular: bool,
    depth: usize,
}

/// Keywords whose parts are tried before misfits are reported.
const BRANCHES: [&str; 6] = ["anyOf", "oneOf", "not", "if", "contains", "dependentSchemas"];

impl<'a> Scales<'a> {
    fn part(&mut self, part: &'a Value) -> SchemaPart {
        let plain = |weight| SchemaPart { weight, levels: 0 };
        self.depth += 1;
        let weighed = match part {
            Value::String(text) => plain(1 + text.len() / 32),
            Value::Array(items) => items.iter().fold(plain(1), |sum, item| sum.and(self.part(item))),
            Value::Object(members) => self.object(members),
            _ => plain(1),
        };
        self.depth -= 1;
        weighed
    }

    /// Weighs a part. A name that could be a keyword is taken for one, even if it names a property, and unreferenced
    /// definitions are counted: the result may be too heavy, and never too light.
    fn object(&mut self, members: &'a Map<String, Value>) -> SchemaPart {
        let mut sum = SchemaPart { weight: 1, levels: 0 };
        for (name, member) in members {
            sum.weight = sum.weight.saturating_add(1 + name.len() / 32);
            sum = sum.and(self.part(member));
            match (name.as_str(), member) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                    sum = sum.and(self.referred(reference));
                }
                // References below it are resolved elsewhere, and keywords may mean something else.
                ("$id" | "$schema", Value::String(_)) if self.depth > 1 => self.is_circular = true,
                ("id", Value::String(_)) if self.depth > 1 && self.has_old_names() => self.is_circular = true,
                ("pattern", Value::String(pattern)) => sum.weight = sum.weight.saturating_add(self.pattern(pattern)),
                ("patternProperties", Value::Object(patterns)) => {
                    for pattern in patterns.keys() {
                        sum.weight = sum.weight.saturating_add(self.pattern(pattern));
                    }
                }
                _ => {}
            }
        }
        if BRANCHES.iter().any(|name| members.contains_key(*name)) {
            sum.levels = sum.levels.saturating_add(1);
        }
        // All other parts are looked at once more, to find out which ones were looked at.
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems") {
            sum.weight = sum.weight.saturating_mul(2);
        }
        sum
    }

    /// True if the schema says that it is of the draft that has `id` for `$id`.
    fn has_old_names(&self) -> bool {
        self.whole.get("$schema").and_then(Value::as_str).is_some_and(|draft| draft.contains("draft-04"))
    }

    fn referred(&mut self, reference: &'a str) -> SchemaPart {
        let unknown = SchemaPart { weight: 1, levels: 0 };
        match self.parts.get(reference) {
            Some(Some(part)) => return *part,
            Some(None) => {
                self.is_circular = true;
                return unknown;
            }
            None => {}
        }
        self.parts.insert(reference, None);
        let depth = std::mem::replace(&mut self.depth, 1);
        let part = match reference.strip_prefix('#').and_then(|pointer| self.whole.pointer(pointer)) {
            Some(part) => self.part(part),
            // A name that is none of a place in it could be any part.
            None => {
                self.is_circular = true;
                unknown
            }
        };
        self.depth = depth;
        self.parts.insert(reference, Some(part));
        part
    }

    /// The weight of a pattern, either as written or as compiled, which is not more. One that only the checker can
    /// read weighs as much as a pattern can.
    fn pattern(&mut self, pattern: &'a str) -> usize {
        let size = *self.compiled.entry(pattern).or_insert_with(|| {
            let fits = |size: &usize| regex::RegexBuilder::new(pattern).size_limit(*size).build().is_ok();
            let sizes = [PATTERN >> 5, PATTERN >> 4, PATTERN >> 3, PATTERN >> 2, PATTERN >> 1];
            sizes.into_iter().find(fits).unwrap_or(PATTERN)
        });
        size / PATTERN_UNIT
    }
}

impl SchemaPart {
    fn and(self, other: Self) -> Self {
        Self { weight: self.weight.saturating_add(other.weight), levels: self.levels.max(other.levels) }
    }
}

fn misfits_of(error: &ValidationError<'_>, most: usize) -> Vec<Misfit> {
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
            unexpected.iter().take(most).map(|name| below(name, MisfitKind::Unexpected, part(name))).collect()
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

/// Returns true if a schema describes an object: `{"type": "object"}`, or nothing at all, like that of `()`.
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

    /// Checks end soon and take little memory. Each value is nearly as heavy as allowed.
    #[test]
    fn what_is_quick_is() -> Result<(), String> {
        let types: Vec<_> = (0..40).map(|_| json!({"type": ["string", "null"], "maxItems": 0, "minimum": 5})).collect();
        for (schema, item) in [
            (json!({"items": {"anyOf": types}}), json!(1)),
            (json!({"items": {"allOf": types}}), json!(1)),
            (json!({"items": {"not": {"pattern": "^(?:[a-z]{1,20}x){1,20}$"}}}), json!("x".repeat(500))),
            (json!({"items": {"oneOf": types, "unevaluatedProperties": false}}), json!({"a": 1, "b": {"c": 1}})),
            (json!({"uniqueItems": true, "items": {"uniqueItems": true}}), json!(["a", "b", "c", ["a"], 5, 1.5])),
        ] {
            let schema = Schema::parse(&schema.to_string())?;
            let mut most = 1;
            while schema.is_quick_for(&Value::from(vec![item.clone(); most * 2])) {
                most *= 2;
            }
            let value = Value::from(vec![item; most]);
            let began = std::time::Instant::now();
            schema.misfits(&value, 20);
            assert!(began.elapsed() < std::time::Duration::from_secs(1), "{schema:?}: {:?}", began.elapsed());
        }
        Ok(())
    }

    /// A schema whose definitions each refer to the next one twice.
    fn doubling(times: usize, keyword: &str) -> String {
        let pair = |n: usize| json!({keyword: [{"$ref": format!("#/$defs/{n}")}, {"$ref": format!("#/$defs/{n}")}]});
        let mut definitions: Map<_, _> = (0..times).map(|n| (n.to_string(), pair(n + 1))).collect();
        definitions.insert(times.to_string(), json!({"type": "object"}));
        json!({"$ref": "#/$defs/0", "$defs": definitions}).to_string()
    }

    #[test]
    fn a_schema_that_would_take_for_ever_is_refused_or_not_used_for_callers() -> Result<(), String> {
        assert!(Schema::parse(&doubling(60, "allOf")).is_err_and(|why| why.contains("too often")));
        let (small, large) = (Schema::parse(&doubling(3, "anyOf"))?, Schema::parse(&doubling(8, "anyOf"))?);
        let (short, long) = (json!(1), json!({"a": "x".repeat(10_000)}));
        assert!(small.is_quick_for(&long) && large.is_quick_for(&short) && !large.is_quick_for(&long));
        for circular in [
            json!({"properties": {"next": {"$ref": "#"}}, "required": ["a"]}),
            // The reference does not lead where it seems to.
            json!({"$defs": {"a": {}}, "required": ["a"], "properties": {
                "b": {"$id": "http://b/", "$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
            }}),
            json!({"$defs": {"a": {"$anchor": "a"}}, "items": {"$ref": "#a"}, "required": ["a"]}),
        ] {
            let schema = Schema::parse(&circular.to_string())?;
            assert!(!schema.is_quick_for(&json!(1)) && schema.misfits(&json!({}), 1).len() == 1, "{circular}");
        }
        // Each level looks at the one below it twice.
        let nested = (0..40).fold(json!({}), |below, _| json!({"anyOf": [below], "unevaluatedProperties": false}));
        assert!(Schema::parse(&nested.to_string()).is_err_and(|why| why.contains("too often")));
        Ok(())
    }

    #[test]
    fn no_part_is_hidden_by_its_name() -> Result<(), String> {
        let heavy: Value = serde_json::from_str(&doubling(10, "allOf")).map_err(|error| error.to_string())?;
        let long = json!({"$defs": "x".repeat(60_000)});
        for name in ["$defs", "definitions", "const", "pattern"] {
            let schema = json!({"properties": {name: {"$ref": "#/$defs/0"}}, "$defs": heavy["$defs"]});
            assert!(!Schema::parse(&schema.to_string())?.is_quick_for(&long), "{name}");
        }
        Ok(())
    }

    #[test]
    fn what_a_value_is_checked_for_weighs_as_much_as_it_can_take() -> Result<(), String> {
        let object = Schema::parse(r#"{"type": "object", "properties": {"a": {"type": "string"}}}"#)?;
        // An error has its whole path, a long name, for each of many items.
        let paths = json!({"x".repeat(30_000): vec![0; 15_000]});
        assert!(object.is_quick_for(&json!({"a": "x".repeat(60_000)})) && !object.is_quick_for(&paths));
        let options = Schema::parse(&json!({"items": {"enum": ["x".repeat(100_000)]}}).to_string())?;
        assert!(options.is_quick_for(&json!([1, 2])) && !options.is_quick_for(&json!(vec![1; 15_000])));
        // All of it is looked at for each byte.
        let large = Schema::parse(r#"{"pattern": "^(?:[a-z]{1,20}x){1,40}$"}"#)?;
        assert!(large.is_quick_for(&json!("x".repeat(1000))) && !large.is_quick_for(&json!("x".repeat(60_000))));
        Ok(())
    }

    #[test]
    fn patterns_are_matched_in_a_time_that_grows_with_the_text() -> Result<(), String> {
        for wrong in [r"^(?:(a|a)*\\1b|a+!)$", "(?=a)b", "(?<!a)b", "a{1000}{1000}", "("] {
            let text = format!(r#"{{"items": {{"pattern": "{wrong}"}}}}"#);
            assert!(Schema::parse(&text).is_err_and(|why| why.contains("cannot be matched in a time")), "{wrong}");
            let text = format!(r#"{{"patternProperties": {{"{wrong}": true}}}}"#);
            assert!(Schema::parse(&text).is_err(), "{wrong}");
        }
        let many: Vec<_> = (0..200).map(|n| json!({"pattern": format!("a{n}")})).collect();
        assert!(
            Schema::parse(&json!({"anyOf": many}).to_string()).is_err_and(|why| why.contains("when they are compiled"))
        );
        // Those that people write are known, in the words of the standard.
        for (pattern, text) in [
            (r"^\\d{4}-\\d{2}-\\d{2}$", "2026-11-25"),
            (r"^[\\w.+-]+@[\\w-]+\\.[a-z]{2,}$", "a@b.example"),
            (r"^\\p{Lu}\\p{L}*$", "\u{c4}rger"),
        ] {
            let schema = Schema::parse(&format!(r#"{{"pattern": "{pattern}"}}"#))?;
            assert_eq!(schema.misfits(&json!(text), 1), [], "{pattern}");
            assert_eq!(schema.misfits(&json!("?"), 1).len(), 1, "{pattern}");
            assert!(schema.is_quick_for(&json!(text)), "{pattern}");
        }
        // Twice two to the hundredth ways.
        let schema = Schema::parse(r#"{"items": {"pattern": "^(?:(a|a)*b|(a*)*c)$"}}"#)?;
        assert_eq!(schema.misfits(&json!(["a".repeat(10_000)]), 1).len(), 1);
        Ok(())
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for wrong in ["", "{", "5", r#"{"type":"nonsense"}"#, r#"{"$ref":"https://example.com/schema"}"#] {
            assert!(Schema::parse(wrong).is_err(), "{wrong}");
        }
    }
}
