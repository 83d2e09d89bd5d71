//! `GET /openapi.json`: the routes, from the functions' own schemas.

use super::{JSON, METRICS, endpoints, json};
use crate::{
    Host,
    config::{Endpoint, WORKFLOW},
    function::Function,
};
use axum::{body::Body, extract::State};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) async fn get(State(host): State<Arc<Host>>) -> Response<Body> {
    json(StatusCode::OK, host.openapi())
}

/// The description, as JSON text.
pub(crate) fn describe(host: &Host) -> String {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for endpoint in endpoints(host) {
        let Some(position) = host.catalog().position(&endpoint.function) else { continue };
        let function = &host.catalog().functions()[position];
        for stream in [false, true] {
            let path = format!("{}{}", endpoint.path, if stream { "/stream" } else { "" });
            let operation = operation(&endpoint, function, stream, &mut schemas);
            let methods = paths.entry(path).or_insert_with(|| json!({}));
            methods[endpoint.method.as_str().to_lowercase()] = operation;
        }
    }
    paths.insert("/health".into(), json!({"get": own("Health", "Whether the host takes requests.", JSON, &health())}));
    let metrics =
        own("Metrics", "What the host counts, in Prometheus' text format.", METRICS, &json!({"type": "string"}));
    if host.config().admin.is_none() {
        paths.insert("/metrics".into(), json!({"get": metrics}));
    }
    if host.config().general.enable_per_user_monitoring {
        let mut get = own("Users", "What each live user has used.", JSON, &json!({"type": "object"}));
        get["parameters"] =
            json!([{"name": "user_id", "in": "query", "required": false, "schema": {"type": "string"}}]);
        paths.insert("/monitor/users".into(), json!({"get": get}));
    }
    schemas.insert("Error".into(), error());
    schemas.insert("InvalidInput".into(), invalid_input());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Carrel",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Functions in a private, stateful sandbox for each user.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "cookie": {"type": "apiKey", "in": "cookie", "name": crate::identity::COOKIE},
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"cookie": []}, {"bearer": []}, {"basic": []}, {"key": []}],
    });
    let root_path = &host.config().general.front_end.root_path;
    if !root_path.is_empty() {
        document["servers"] = json!([{"url": root_path}]);
    }
    document.to_string()
}

fn operation(endpoint: &Endpoint, function: &Function, stream: bool, schemas: &mut Map<String, Value>) -> Value {
    let input = named(function, "Input", function.guest.input_schema.value(), schemas);
    let output = named(function, "Output", function.guest.output_schema.value(), schemas);
    let ok = match stream {
        false => json!({"description": "The function's output", "content": {"application/json": {"schema": output}}}),
        true => json!({
            "description": "Server-sent events: `data: {\"value\": \"<JSON text>\"}` for each partial result, and last \
                            for the output; an event `error` if the call fails after the first",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }),
    };
    let mut responses = json!({"200": ok});
    let content =
        |name: &str| json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}});
    for (status, description) in [
        ("401", "No user, or one that cannot be read"),
        ("413", "The body is too large"),
        ("415", "The body is not JSON"),
        ("429", "Too many calls of this user are waiting"),
        ("500", "The function failed, or was stopped"),
        ("503", "The host has no room for another user, or is being stopped"),
        ("504", "The call took too long"),
    ] {
        responses[status] = json!({"description": description, "content": content("Error")});
    }
    responses["422"] = json!({"description": "The input does not fit", "content": content("InvalidInput")});
    let description = match endpoint.description.is_empty() {
        true => &function.guest.summary,
        false => &endpoint.description,
    };
    let id =
        format!("{} {}{}", endpoint.method.as_str().to_lowercase(), endpoint.path, if stream { " stream" } else { "" });
    let mut operation = json!({
        "summary": format!("{}{}", title(function), if stream { ", as events" } else { "" }),
        "description": description,
        "operationId": id.replace(['/', ' ', '-', '.', '~'], "_"),
        "responses": responses,
    });
    if endpoint.method.has_body() {
        operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": input}}});
    }
    operation
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

fn own(summary: &str, description: &str, content_type: &str, schema: &Value) -> Value {
    json!({
        "summary": summary,
        "description": description,
        "security": [],
        "responses": {"200": {"description": description, "content": {content_type: {"schema": schema}}}},
    })
}

fn health() -> Value {
    json!({"type": "object", "properties": {"status": {"type": "string", "const": "healthy"}}})
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
