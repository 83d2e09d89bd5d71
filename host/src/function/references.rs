//! References from a function's configuration to other functions, marked in its schema by `"format":
//! "carrel-function"`.

use crate::settings::KeyPath;
use serde_json::Value;

/// A reference to another function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// The key in the configuration; the file may leave it out if the schema has a default.
    pub(super) key: KeyPath,
    /// The name of the other function.
    pub(super) name: String,
}

/// All references of a configuration, defaults included.
pub(super) fn references(schema: &Value, config: &Value, key: &KeyPath) -> Vec<Reference> {
    let mut found = Vec::new();
    walk(schema, schema, Some(config), key, 0, &mut found);
    found
}

fn walk(root: &Value, schema: &Value, value: Option<&Value>, key: &KeyPath, depth: usize, found: &mut Vec<Reference>) {
    // Schemas may refer to themselves; configurations are not so deep.
    if depth > 32 {
        return;
    }
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(path.strip_prefix('#')?));
    let schema = target.unwrap_or(schema);
    // An absent value refers to nothing, nor do its parts.
    let Some(value) = value.or_else(|| schema.get("default")) else { return };
    if schema.get("format").is_some_and(|format| format == "carrel-function") {
        if let Value::String(name) = value {
            let reference = Reference { key: key.clone(), name: name.clone() };
            // Many ways through a schema may lead to it.
            if !found.contains(&reference) {
                found.push(reference);
            }
        }
        return;
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten().filter(|_| value.is_object()) {
        walk(root, schema, value.get(name), &key.with(name), depth + 1, found);
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(schema) = schema.get("items") {
                    walk(root, schema, Some(item), &key.with(index.to_string()), depth + 1, found);
                }
            }
        }
        Value::Object(entries) => {
            let others = schema.get("additionalProperties").filter(|schema| schema.is_object());
            for (name, item) in entries.iter().filter(|(name, _)| properties.is_none_or(|it| !it.contains_key(*name))) {
                if let Some(schema) = others {
                    walk(root, schema, Some(item), &key.with(name), depth + 1, found);
                }
            }
        }
        _ => {}
    }
    for schema in ["anyOf", "oneOf", "allOf"].iter().filter_map(|name| schema.get(name)?.as_array()).flatten() {
        walk(root, schema, Some(value), key, depth + 1, found);
    }
}

/// A circle among functions, each given with those that it refers to: the positions on it, in order.
pub(super) fn cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }

    fn visit(at: usize, edges: &[Vec<usize>], states: &mut [Mark], path: &mut Vec<usize>) -> Option<Vec<usize>> {
        match states[at] {
            Mark::Done => return None,
            Mark::Open => return path.iter().position(|it| *it == at).map(|start| path[start..].to_vec()),
            Mark::New => {}
        }
        states[at] = Mark::Open;
        path.push(at);
        let found = edges[at].iter().find_map(|next| visit(*next, edges, states, path));
        path.pop();
        states[at] = Mark::Done;
        found
    }

    let mut states = vec![Mark::New; edges.len()];
    (0..edges.len()).find_map(|start| visit(start, edges, &mut states, &mut Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_in_fields_defaults_lists_and_maps() {
        let name = json!({"type": "string", "format": "carrel-function"});
        let schema = json!({
            "type": "object",
            "properties": {
                "one": name,
                "two": {"type": "string", "format": "carrel-function", "default": "b"},
                "many": {"type": "array", "items": {"$ref": "#/$defs/inner"}},
                "map": {"type": "object", "additionalProperties": name},
                "maybe": {"anyOf": [name, {"type": "null"}]},
                "text": {"type": "string"},
                "absent": {"anyOf": [{"$ref": "#/$defs/default"}, {"type": "null"}]},
            },
            "$defs": {
                "inner": {"type": "object", "properties": {"name": name}},
                "default": {"type": "object", "properties": {"name": {"format": "carrel-function", "default": "z"}}},
            },
        });
        let config = json!({
            "one": "a", "many": [{"name": "c"}, {}], "map": {"x": "d"}, "maybe": "e", "text": "not one", "absent": null,
        });
        let found = references(&schema, &config, &KeyPath::parse("functions.f"));
        let told: Vec<_> = found.iter().map(|it| format!("{} {}", it.key, it.name)).collect();
        assert_eq!(
            told,
            [
                "functions.f.one a",
                "functions.f.two b",
                "functions.f.many.0.name c",
                "functions.f.map.x d",
                "functions.f.maybe e",
            ]
        );
    }

    #[test]
    fn a_circle_is_found_wherever_it_is() {
        assert_eq!(cycle(&[vec![1, 2], vec![2], vec![]]), None);
        assert_eq!(cycle(&[vec![1], vec![2], vec![1]]), Some(vec![1, 2]));
        assert_eq!(cycle(&[vec![0]]), Some(vec![0]));
    }
}
