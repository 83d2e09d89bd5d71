//! YAML to a tree of values with their lines.
//!
//! Two parsers read the same text. `serde_yaml` decides on the syntax and on quoted texts; it is archived upstream,
//! and this is the only file that names it. `granit-parser` tells the line of each key, and which scalars are plain:
//! those mean what they mean to NAT's reader (`scalar`). A text that the two read differently is refused: its meaning
//! is not guessed.

use super::{
    document::{Mark, Node, NodeKind},
    scalar,
};
use granit_parser::{Event, Parser, ScalarStyle};
use indexmap::IndexMap;
use serde_json::{Number, Value};
use serde_yaml::Value as Yaml;
use std::{collections::HashMap, path::Path, rc::Rc, sync::Arc};

/// An error in a file's YAML, and its line.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

/// Parses a document. An empty one is an empty map.
pub(super) fn parse(file: &Arc<Path>, text: &str) -> Result<Node, SyntaxError> {
    control_characters(text)?;
    let document: Yaml = serde_yaml::from_str(text).map_err(|error| {
        let line = line(text, &error);
        let message = error.to_string();
        // The library says "... at line 3 column 5"; the line is told apart.
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        SyntaxError { line, message }
    })?;
    let shape = match (NodeShape::of(text)?, &document) {
        (Some(shape), _) => shape,
        (None, Yaml::Null) => Rc::new(NodeShape { line: 1, tagged: false, of: Of::Scalar(Some(String::new())) }),
        (None, _) => return Err(unlike(None)),
    };
    let mut root = Reading { file }.node(document, &shape, None)?;
    if matches!(root.kind, NodeKind::Scalar { value: Value::Null, .. }) {
        root.kind = NodeKind::Map(IndexMap::new());
    }
    root.at.line = None;
    Ok(root)
}

/// The texts of all scalars, keys too, as far as the document can be read.
pub(super) fn scalars(text: &str) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::Scalar(text, ..), _)) => found.push(text.into_owned()),
            Ok(_) => {}
            Err(_) => return (found, false),
        }
    }
    (found, true)
}

/// Finds control characters, which YAML does not allow, not even in comments. The libraries do not tell their lines.
fn control_characters(text: &str) -> Result<(), SyntaxError> {
    let allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        None => Ok(()),
        Some((at, c)) => Err(SyntaxError {
            line: Some(text[..at].matches('\n').count() + 1),
            message: format!(
                "the control character U+{:04X} stands in it; a text in double quotes may have it as \"\\u{:04X}\"",
                u32::from(c),
                u32::from(c)
            ),
        }),
    }
}

/// The line of an error. At the end of a text the parser is a line further, and it ends lines at more characters than
/// editors do.
fn line(text: &str, error: &serde_yaml::Error) -> Option<usize> {
    error.location().map(|location| location.line().min(text.lines().count().max(1)))
}

/// A value as it stands in the text.
struct NodeShape {
    /// The line, counted from 1.
    line: usize,
    /// True if the value has a tag, and so is no plain scalar, whatever it looks like.
    tagged: bool,
    of: Of,
}

enum Of {
    /// The text of a plain scalar; `None`, if it is in quotes or a block.
    Scalar(Option<String>),
    List(Vec<Rc<NodeShape>>),
    Map(Vec<(Rc<NodeShape>, Rc<NodeShape>)>),
}

/// A list or map that has begun.
struct OpenNode {
    anchor: usize,
    line: usize,
    tagged: bool,
    is_map: bool,
    items: Vec<Rc<NodeShape>>,
}

impl NodeShape {
    /// The shape of a document. `None`: there is nothing in it.
    fn of(text: &str) -> Result<Option<Rc<Self>>, SyntaxError> {
        let mut anchors: HashMap<usize, Rc<Self>> = HashMap::new();
        let mut open: Vec<OpenNode> = Vec::new();
        let mut root = None;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let line = Some(error.marker().line());
                SyntaxError { line, message: format!("it cannot be followed: {}", error.info()) }
            })?;
            let line = span.start.line();
            let (anchor, ended) = match event {
                Event::Scalar(text, style, anchor, tag) => {
                    let of = Of::Scalar((style == ScalarStyle::Plain).then(|| text.into_owned()));
                    (anchor, Rc::new(Self { line, tagged: tag.is_some(), of }))
                }
                Event::Alias(anchor) => match anchors.get(&anchor) {
                    Some(shape) => (0, shape.clone()),
                    None => return Err(unlike(Some(line))),
                },
                Event::SequenceStart(_, anchor, ref tag) | Event::MappingStart(_, anchor, ref tag) => {
                    let is_map = matches!(event, Event::MappingStart(..));
                    open.push(OpenNode { anchor, line, tagged: tag.is_some(), is_map, items: Vec::new() });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(OpenNode { anchor, line, tagged, is_map, items }) = open.pop() else { continue };
                    let of = match is_map {
                        false => Of::List(items),
                        true => Of::Map(items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()),
                    };
                    (anchor, Rc::new(Self { line, tagged, of }))
                }
                _ => continue,
            };
            if anchor > 0 {
                anchors.insert(anchor, ended.clone());
            }
            match open.last_mut() {
                Some(around) => around.items.push(ended),
                None => root = Some(ended),
            }
        }
        Ok(root)
    }

    /// The text of a plain scalar.
    fn plain(&self) -> Option<&str> {
        match &self.of {
            Of::Scalar(text) if !self.tagged => text.as_deref(),
            _ => None,
        }
    }
}

/// Reports that the two parsers differ: at a line separator that one of them takes for a character, say.
fn unlike(line: Option<usize>) -> SyntaxError {
    let message = "it can be read in two ways: a text with unusual line separators, or quotes, is one of them";
    SyntaxError { line, message: message.into() }
}

/// Values and their shapes, put together.
struct Reading<'a> {
    file: &'a Arc<Path>,
}

impl Reading<'_> {
    /// `line` is that of the value's key, if it has one.
    fn node(&self, value: Yaml, shape: &NodeShape, line: Option<usize>) -> Result<Node, SyntaxError> {
        let line = line.or(Some(shape.line));
        let wrong = |message| SyntaxError { line, message };
        let plain = shape.plain();
        let kind = match value {
            Yaml::Sequence(items) => {
                let shapes = match &shape.of {
                    Of::List(shapes) if shapes.len() == items.len() => shapes,
                    _ => return Err(unlike(line)),
                };
                let items = items.into_iter().zip(shapes).map(|(item, shape)| self.node(item, shape, None));
                NodeKind::List(items.collect::<Result<_, _>>()?)
            }
            Yaml::Mapping(entries) => self.map(entries, shape)?,
            _ if !matches!(shape.of, Of::Scalar(_)) => return Err(unlike(line)),
            Yaml::Tagged(tagged) => return Err(wrong(format!("the tag {} means nothing here", tagged.tag))),
            scalar => match (plain, scalar) {
                (Some(text), _) => {
                    let value = scalar::resolve(text).map_err(|text| wrong(not_in_json(&text)))?;
                    let word = value.is_boolean().then(|| text.into());
                    NodeKind::Scalar { value, word }
                }
                (None, scalar) => NodeKind::Scalar { value: to_json(scalar).map_err(wrong)?, word: None },
            },
        };
        Ok(Node { at: Mark { file: self.file.clone(), line }, kind })
    }

    fn map(&self, entries: serde_yaml::Mapping, shape: &NodeShape) -> Result<NodeKind, SyntaxError> {
        let shapes = match &shape.of {
            Of::Map(shapes) if shapes.len() == entries.len() => shapes,
            _ => return Err(unlike(Some(shape.line))),
        };
        let mut own = Vec::with_capacity(entries.len());
        let mut members = IndexMap::with_capacity(entries.len());
        for ((key, value), (key_shape, value_shape)) in entries.into_iter().zip(shapes) {
            let line = Some(key_shape.line);
            let name = self::key(key, key_shape.plain()).map_err(|message| SyntaxError { line, message })?;
            let node = self.node(value, value_shape, line)?;
            if name == MERGE && key_shape.plain().is_some() {
                for (name, node) in merged(node)? {
                    members.insert(name, node);
                }
            } else {
                own.push((name, node));
            }
        }
        // A map's own keys come before those that are merged into it, and no two of them are alike.
        let mut seen = HashMap::with_capacity(own.len());
        for (name, node) in own {
            if let Some(line) = seen.insert(name.clone(), node.at.line) {
                let first = line.map(|line| format!(", first in line {line}")).unwrap_or_default();
                return Err(SyntaxError {
                    line: node.at.line,
                    message: format!("the key `{name}` is there twice{first}"),
                });
            }
            members.insert(name, node);
        }
        Ok(NodeKind::Map(members))
    }
}

/// The key of YAML 1.1 that puts other maps' keys into a map (<https://yaml.org/type/merge.html>).
const MERGE: &str = "<<";

/// The members that a merge key brings; of several with one name the last one counts.
fn merged(node: Node) -> Result<Vec<(String, Node)>, SyntaxError> {
    let line = node.at.line;
    let wrong = || SyntaxError {
        line,
        message: format!("the merge key `{MERGE}` takes a map, or a list of maps, such as `*name`"),
    };
    match node.kind {
        NodeKind::Map(members) => Ok(members.into_iter().collect()),
        // Of several maps the first one counts.
        NodeKind::List(items) => {
            let maps = items.into_iter().rev().map(|item| match item.kind {
                NodeKind::Map(members) => Ok(members),
                _ => Err(wrong()),
            });
            Ok(maps.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        NodeKind::Scalar { .. } => Err(wrong()),
    }
}

/// A key's text: of a plain one as it stands there.
fn key(key: Yaml, plain: Option<&str>) -> Result<String, String> {
    match (key, plain) {
        (Yaml::Null, _) => Err("a key is empty: it must be text".into()),
        (Yaml::Sequence(_) | Yaml::Mapping(_) | Yaml::Tagged(_), _) => {
            Err("a key is a list, a map or tagged: it must be text".into())
        }
        (_, Some(plain)) => Ok(plain.to_owned()),
        (Yaml::String(it), None) => Ok(it),
        (Yaml::Number(it), None) => Ok(it.to_string()),
        (Yaml::Bool(it), None) => Ok(it.to_string()),
    }
}

/// The value of a scalar that has no plain text to go by.
fn to_json(value: Yaml) -> Result<Value, String> {
    Ok(match value {
        Yaml::Bool(it) => it.into(),
        Yaml::String(it) => it.into(),
        Yaml::Number(it) => match (it.as_u64(), it.as_i64(), it.as_f64().and_then(Number::from_f64)) {
            (Some(it), _, _) => it.into(),
            (_, Some(it), _) => it.into(),
            (_, _, Some(it)) => Value::Number(it),
            _ => return Err(not_in_json(&it.to_string())),
        },
        _ => Value::Null,
    })
}

fn not_in_json(number: &str) -> String {
    format!("{number} is not a number that JSON has")
}

#[cfg(test)]
mod tests {
    use super::{super::KeyPath, *};

    fn read(text: &str) -> Result<Node, SyntaxError> {
        parse(&Arc::from(Path::new("a.yml")), text)
    }

    fn value(text: &str) -> String {
        read(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}")).value().to_string()
    }

    #[track_caller]
    fn wrong(text: &str) -> (Option<usize>, String) {
        let error = read(text).err().unwrap_or_else(|| panic!("{text:?} is taken"));
        (error.line, error.message)
    }

    const TEXT: &str = "a: 1\nb:\n  c:\n    - x: 1\n      y: 2\n    - z\n  \"d\": [1,\n    2]\n\ne: {f: 1}\n";

    #[test]
    fn the_line_of_a_key_is_where_it_stands() {
        let root = read(TEXT).unwrap_or_else(|error| panic!("{error:?}"));
        let at = |path: &str| root.place(&KeyPath::parse(path)).line;
        for (path, line) in [
            ("a", 1),
            ("b", 2),
            ("b.c", 3),
            ("b.c.0", 4),
            ("b.c.0.y", 5),
            ("b.c.1", 6),
            ("b.d", 7),
            ("b.d.1", 8),
            ("e.f", 10),
            ("b.c.0.nope.deeper", 4),
        ] {
            assert_eq!(at(path), Some(line), "{path}");
        }
        assert_eq!(at("nope"), None);
    }

    #[test]
    fn maps_keep_their_order_and_a_key_given_twice_is_an_error() {
        assert_eq!(value("z: 1\na: [1.5, yes, \"yes\", ~, -3]\n"), r#"{"z":1,"a":[1.5,true,"yes",null,-3]}"#);
        assert!(wrong("a: 1\nb: 2\na: 3\n").1.contains("duplicate"));
        assert_eq!(wrong("1: a\n\"1\": b\n"), (Some(2), "the key `1` is there twice, first in line 1".into()));
    }

    #[test]
    fn merge_keys_bring_the_members_of_other_maps() {
        let anchors = "x: &x {b: 2, c: 1}\ny: &y {b: 5, e: 6}\n";
        let merged = |text: &str| {
            let all: Value = serde_json::from_str(&value(&format!("{anchors}{text}"))).expect("JSON");
            all["a"].to_string()
        };
        assert_eq!(merged("a: {<<: *x, b: 3}"), r#"{"b":3,"c":1}"#);
        assert_eq!(merged("a: {b: 3, <<: *x}"), r#"{"b":3,"c":1}"#);
        assert_eq!(merged("a: {<<: [*x, *y], d: 3}"), r#"{"b":2,"e":6,"c":1,"d":3}"#);
        assert_eq!(merged("a: {<<: {<<: {c: 1}, b: 2}}"), r#"{"c":1,"b":2}"#);
        assert_eq!(merged("a: {\"<<\": {b: 1}}"), r#"{"<<":{"b":1}}"#);
        for text in ["b: 1\na: {<<: 5}", "b: 1\na:\n  <<: [1]", "b: 1\na: {<<: [*x, 2]}"] {
            let (line, message) = wrong(&format!("{anchors}{text}"));
            assert!(line >= Some(4) && message.contains("takes a map, or a list of maps"), "{text}: {message}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_told_with_its_line() {
        for (text, line, what) in [
            ("a: 1\nb:\n  c: .inf\n", 3, ".inf is not a number"),
            ("a: [1,\n  .nan]\n", 2, ".nan is not a number"),
            ("a: 1\n~: 5\n", 2, "a key is empty"),
            ("a:\n  ~ : 5\n", 2, "a key is empty"),
            ("a:\n  ? [1, 2]\n  : 3\n", 2, "a key is a list"),
            ("a: 1\nb: !secret x\n", 2, "the tag !secret means nothing here"),
            ("a: 1\n# \u{7}\nb: 2\n", 2, "the control character U+0007"),
            ("a: 1\nb: \"x\u{0}\"\n", 2, "the control character U+0000"),
            ("a: 1\n\nb: x\u{9b}\n", 3, "the control character U+009B"),
        ] {
            let (told, message) = wrong(text);
            assert_eq!(told, Some(line), "{text:?}: {message}");
            assert!(message.contains(what), "{text:?}: {message}");
        }
        assert_eq!(
            value("a: \"\\u0007\"\nb: !!str 5\nc: x\u{a0}y\n"),
            "{\"a\":\"\\u0007\",\"b\":\"5\",\"c\":\"x\u{a0}y\"}"
        );
    }
}
