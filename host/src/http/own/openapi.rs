//! `GET /openapi.json`: the routes, from the functions' own schemas.

use super::described::{NOBODY, failure, scheme, security};
use crate::{
    Host,
    config::{Endpoint, FORMS, WORKFLOW},
    function::Function,
    http::{answer::json, endpoints::endpoints},
};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// The route: all of it is known when the host begins to serve.
///
/// `own` are the operations of the host's own routes, by their paths.
pub(super) fn route<S: Clone + Send + Sync + 'static>(host: &Host, own: Vec<(&str, Value)>) -> MethodRouter<S> {
    let described = Bytes::from(describe(host, own));
    get(async move || json(StatusCode::OK, described.clone()))
}

/// The description, as JSON text.
fn describe(host: &Host, own: Vec<(&str, Value)>) -> String {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    let mut ids = HashSet::new();
    for endpoint in endpoints(host) {
        let Some(position) = host.catalog().position(&endpoint.function) else { continue };
        let function = &host.catalog().functions()[position];
        for form in FORMS {
            let operation = operation(host, &endpoint, function, form, (&mut schemas, &mut ids));
            let methods = paths.entry(format!("{}{form}", endpoint.path)).or_insert_with(|| json!({}));
            methods[endpoint.method.as_str().to_lowercase()] = operation;
        }
    }
    paths.extend(own.into_iter().map(|(path, operations)| (path.to_owned(), operations)));
    let identity = &host.config().identity;
    schemas.insert("Error".into(), error());
    schemas.insert("InvalidInput".into(), invalid_input());
    let schemes: Map<String, Value> =
        identity.kinds().iter().map(|kind| (scheme(*kind).0.to_owned(), scheme(*kind).1)).collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Carrel",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Functions in a private, stateful sandbox for each user.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": schemes},
        "security": security(host),
    });
    let root_path = &host.config().general.front_end.root_path;
    if !root_path.is_empty() {
        document["servers"] = json!([{"url": root_path}]);
    }
    document.to_string()
}

fn operation(
    host: &Host,
    endpoint: &Endpoint,
    function: &Function,
    form: &str,
    (schemas, ids): (&mut Map<String, Value>, &mut HashSet<String>),
) -> Value {
    let (stream, has_body) = (!form.is_empty(), endpoint.method.has_body());
    let input = named(function, "Input", function.guest.input_schema.value(), schemas);
    let output = named(function, "Output", function.guest.output_schema.value(), schemas);
    let ok = match stream {
        false => json!({"description": "The function's output", "content": {"application/json": {"schema": output}}}),
        // Only version 3.2 and later can describe an event. Before it some tools take a schema for that of the
        // stream, and others for that of each event: so it has no type.
        true => json!({
            "description": "Server-sent events: `data: {\"value\": \"<JSON text>\"}` for each partial result, and last \
                            for the output; an event `error` if the call fails after the headers were sent",
            "content": {"text/event-stream": {"schema": {"contentMediaType": "text/event-stream"}}},
        }),
    };
    let mut responses = json!({"200": ok});
    if stream && !has_body {
        responses["204"] = json!({"description": "The stream has ended: the request's `Last-Event-ID` is its last"});
    }
    for (status, description, of_a_body) in [
        ("400", "The body is not UTF-8, or did not arrive as a whole", true),
        ("401", NOBODY, false),
        ("403", "This tenant may not call this function", false),
        ("408", "The body did not arrive in time", true),
        ("413", "The body is too large", true),
        ("415", "The body is not JSON, or is compressed", true),
        ("429", "Too many calls of this user or tenant, or its rate or budget is used up", false),
        ("500", "The function failed, or was stopped", false),
        ("503", "The host has no room for another user, or is being stopped", false),
        ("504", "The call took too long", false),
    ] {
        if (has_body || !of_a_body) && (status != "403" || host.config().identity.is_verified()) {
            responses[status] = failure(description);
        }
    }
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/InvalidInput"}}});
    responses["422"] = json!({"description": "The input does not fit", "content": content});
    let description = match endpoint.description.is_empty() {
        true => &function.guest.summary,
        false => &endpoint.description,
    };
    let mut operation = json!({
        "summary": format!("{}{}", title(function), if stream { ", as events" } else { "" }),
        "description": description,
        "operationId": id(endpoint, form, ids),
        "responses": responses,
    });
    if has_body {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": input}}});
    } else if stream {
        operation["parameters"] =
            json!([{"name": "Last-Event-ID", "in": "header", "required": false, "schema": {"type": "string"}}]);
    }
    operation
}

/// An operation's name, which generated clients use for a function. Paths that differ only in punctuation or in case
/// are told apart by a number, since such clients spell names in their own way.
fn id(endpoint: &Endpoint, form: &str, taken: &mut HashSet<String>) -> String {
    let words = format!("{}{}{form}", endpoint.method.as_str().to_lowercase(), endpoint.path);
    let words: Vec<_> = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name = words.join("_");
    let mut id = name.clone();
    let mut number = 1;
    let bare = |id: &str| id.replace('_', "").to_lowercase();
    while !taken.insert(bare(&id)) {
        number += 1;
        id = format!("{name}_{number}");
    }
    id
}

fn title(function: &Function) -> &str {
    if &*function.name == WORKFLOW { "Run the workflow" } else { &function.name }
}

/// Puts a function's schema among the components, under its title, and gives a reference to it. Its own definitions
/// move there as well. Another schema of the same title is told apart by its guest's name.
fn named(function: &Function, side: &str, schema: &Value, schemas: &mut Map<String, Value>) -> Value {
    let title = schema.get("title").and_then(Value::as_str).unwrap_or(side);
    let title = title.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let qualified = format!("{}_{title}", function.guest.name);
    // A guest's name is its own, so that one of the two is free, or already has this very schema.
    let names = [title, qualified.clone(), format!("{qualified}_{side}")];
    let free = |name: &&String| {
        let same = || schemas.get(*name) == Some(&moved(schema, name).0);
        !OWN.contains(&name.as_str()) && (!schemas.contains_key(*name) || same())
    };
    let name = names.iter().find(free).unwrap_or(&qualified).clone();
    let (schema, definitions) = moved(schema, &name);
    schemas.extend(definitions);
    schemas.insert(name.clone(), schema);
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Names of the host's own schemas.
const OWN: [&str; 2] = ["Error", "InvalidInput"];

/// A schema as a component of this name, and its definitions as components beside it.
fn moved(schema: &Value, name: &str) -> (Value, Map<String, Value>) {
    let mut schema = schema.clone();
    let mut beside = Map::new();
    if let Some(map) = schema.as_object_mut() {
        map.shift_remove("$schema");
        let definitions = map.shift_remove("$defs");
        for (inner, definition) in definitions.as_ref().and_then(Value::as_object).into_iter().flatten() {
            let mut definition = definition.clone();
            redirect(&mut definition, name);
            beside.insert(format!("{name}_{inner}"), definition);
        }
    }
    redirect(&mut schema, name);
    (schema, beside)
}

/// References to a schema's own definitions lead to where they were moved.
fn redirect(schema: &mut Value, owner: &str) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get_mut("$ref")
                && let Some(inner) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/components/schemas/{owner}_{inner}");
            }
            map.values_mut().for_each(|value| redirect(value, owner));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| redirect(value, owner)),
        _ => {}
    }
}

fn error() -> Value {
    json!({
        "title": "Error",
        "type": "object",
        "required": ["detail", "code"],
        "properties": {
            "detail": {"type": "string", "description": "What went wrong, in words"},
            "code": {"type": "string", "description": "What went wrong, for programs; it does not change"},
            "setting": {"type": "string", "description": "The key of the configuration that sets the limit"},
            "function": {"type": "string", "description": "The function that was stopped"},
            "dropped": {"type": "array", "items": {"type": "string"},
                        "description": "The functions whose state is gone"},
        },
    })
}

fn invalid_input() -> Value {
    json!({
        "title": "InvalidInput",
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"type": "array", "items": {
            "type": "object",
            "required": ["type", "loc", "msg"],
            "properties": {
                "type": {"type": "string"},
                "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                "msg": {"type": "string"},
                "input": {},
            },
        }}},
    })
}
