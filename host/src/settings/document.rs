//! A configuration as one tree, whatever files it was put together from.
//!
//! Every value knows the file and the line of its key. So each problem is reported with its place, and a path that a
//! file names is relative to that very file.

use super::{KeyPath, Problem};
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::{path::Path, sync::Arc};

/// The place of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The file, or the flag of the command line.
    pub(super) file: Arc<Path>,
    /// The line, counted from 1, where it is known.
    pub(super) line: Option<usize>,
}

/// A value, and the place of its key.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Mark,
    pub(super) kind: NodeKind,
}

#[derive(Debug, Clone)]
pub(super) enum NodeKind {
    /// `null`, a boolean, a number or a text. `word` is the text of a plain scalar that is read as a boolean.
    Scalar {
        value: Value,
        word: Option<Box<str>>,
    },
    List(Vec<Node>),
    Map(IndexMap<String, Node>),
}

impl Node {
    pub(super) fn scalar(at: Mark, value: Value) -> Self {
        Self { at, kind: NodeKind::Scalar { value, word: None } }
    }

    /// An empty map.
    pub(super) fn empty(file: Arc<Path>) -> Self {
        Self { at: Mark { file, line: None }, kind: NodeKind::Map(IndexMap::new()) }
    }

    /// A copy for a text that is no file.
    pub(super) fn without_lines(mut self) -> Self {
        self.at.line = None;
        match &mut self.kind {
            NodeKind::List(items) => *items = std::mem::take(items).into_iter().map(Self::without_lines).collect(),
            NodeKind::Map(members) => {
                let all = std::mem::take(members).into_iter();
                *members = all.map(|(key, node)| (key, node.without_lines())).collect();
            }
            NodeKind::Scalar { .. } => {}
        }
        self
    }

    /// The value without its places.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar { value, .. } => value.clone(),
            NodeKind::List(items) => items.iter().map(Self::value).collect(),
            NodeKind::Map(members) => Value::Object(values(members)),
        }
    }

    /// The value at a path, or of the nearest existing key above it. The whole document has no line.
    fn nearest(&self, path: &KeyPath) -> &Self {
        let mut node = self;
        for key in path.keys() {
            match node.child(key) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    fn child(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            NodeKind::Map(members) => members.get(key),
            NodeKind::List(items) => items.get(key.parse::<usize>().ok()?),
            NodeKind::Scalar { .. } => None,
        }
    }

    fn at(&self, path: &KeyPath) -> Option<&Self> {
        path.keys().iter().try_fold(self, |node, key| node.child(key))
    }

    /// The place of a key, or of the nearest one above it.
    pub(super) fn place(&self, path: &KeyPath) -> &Mark {
        &self.nearest(path).at
    }

    /// The text of a plain scalar that is read as a boolean, such as `on`.
    pub(super) fn word(&self, path: &KeyPath) -> Option<&str> {
        match &self.at(path)?.kind {
            NodeKind::Scalar { word, .. } => word.as_deref(),
            _ => None,
        }
    }

    /// Puts another document on top of this one, as NAT does: maps are merged key by key, and anything else takes the
    /// place of what is there.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.kind, over.kind) {
            (NodeKind::Map(members), NodeKind::Map(others)) => {
                self.at = over.at;
                for (key, other) in others {
                    match members.get_mut(&key) {
                        Some(member) => member.merge(other),
                        None => drop(members.insert(key, other)),
                    }
                }
            }
            (kind, other) => {
                *kind = other;
                self.at = over.at;
            }
        }
    }

    /// Sets the value at a path, and makes the maps that lead to it. The text is read as the type of the value there:
    /// a list's items have commas between them, and a number or a boolean is read as in a file.
    ///
    /// # Errors
    ///
    /// A value on the path is neither a map nor a list that has the item.
    pub(super) fn set(&mut self, path: &KeyPath, given: Self) -> Result<(), Problem> {
        let mut node = self;
        for (index, key) in path.keys().iter().enumerate() {
            let Some(next) = node.member(key, &given.at) else {
                let above = path.keys()[..index].join(".");
                let mut problem = Problem::new(path.clone(), format!("cannot be set: `{above}` has no `{key}`"));
                problem.file = Some(given.at.file);
                return Err(problem);
            };
            node = next;
        }
        *node = given;
        Ok(())
    }

    /// The value of a key, made if it is not there; `None` if it cannot be made.
    fn member(&mut self, key: &str, at: &Mark) -> Option<&mut Self> {
        // A key without a value counts as not given.
        if matches!(self.kind, NodeKind::Scalar { value: Value::Null, .. }) {
            self.kind = NodeKind::Map(IndexMap::new());
        }
        match &mut self.kind {
            NodeKind::Map(members) => {
                let made = || Self { at: at.clone(), kind: NodeKind::Map(IndexMap::new()) };
                Some(members.entry(key.to_owned()).or_insert_with(made))
            }
            NodeKind::List(items) => items.get_mut(key.parse::<usize>().ok()?),
            NodeKind::Scalar { .. } => None,
        }
    }

    /// The value at a path.
    pub(super) fn get(&self, path: &KeyPath) -> Option<&NodeKind> {
        self.at(path).map(|node| &node.kind)
    }
}

fn values(members: &IndexMap<String, Node>) -> Map<String, Value> {
    members.iter().map(|(key, node)| (key.clone(), node.value())).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::yaml, *};
    use serde_json::json;

    fn document(file: &str, text: &str) -> Node {
        yaml::parse(&Arc::from(Path::new(file)), text).unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn maps_are_merged_deep_and_anything_else_is_replaced() {
        let mut base = document("base.yml", "a: {x: 1, y: [1, 2]}\nb: {z: 1}\nc: 5\n");
        base.merge(document("top.yml", "b: 3\na: {y: [3], w: {v: 1}}\nd: 1\n"));
        assert_eq!(base.value(), json!({"a": {"x": 1, "y": [3], "w": {"v": 1}}, "b": 3, "c": 5, "d": 1}));
        let place = |path: &str| {
            let mark = base.place(&KeyPath::parse(path));
            (mark.file.display().to_string(), mark.line)
        };
        assert_eq!(place("a.x"), ("base.yml".into(), Some(1)));
        assert_eq!(place("a.y.0"), ("top.yml".into(), Some(2)));
        assert_eq!(place("b"), ("top.yml".into(), Some(1)));
        assert_eq!(place("c"), ("base.yml".into(), Some(3)));
        assert_eq!(place("a.w.nope"), ("top.yml".into(), Some(2)));
    }

    #[test]
    fn a_value_is_set_where_a_path_leads() {
        let mut it = document("a.yml", "a: {b: [{c: 1}]}\ne:\n");
        let set = |it: &mut Node, path: &str| {
            let at = Mark { file: Path::new("--override").into(), line: None };
            it.set(&KeyPath::parse(path), Node::scalar(at, json!(5)))
        };
        for path in ["a.b.0.c", "a.d.f", "e.g", "h"] {
            assert_eq!(set(&mut it, path), Ok(()), "{path}");
        }
        assert_eq!(it.value(), json!({"a": {"b": [{"c": 5}], "d": {"f": 5}}, "e": {"g": 5}, "h": 5}));
        for path in ["h.i", "a.b.1", "a.b.x"] {
            assert!(set(&mut it, path).is_err(), "{path}");
        }
    }
}
