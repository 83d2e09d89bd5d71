//! Parts of the API's description.

use crate::{Host, identity::Kind};
use serde_json::{Map, Value, json};

/// The description of the answer to a request without a right user.
pub(super) const NOBODY: &str = "No user, or one that cannot be read";

/// A requirement of any one of the kinds of credentials.
pub(super) fn security(host: &Host) -> Value {
    host.config().identity.kinds().iter().map(|kind| json!({scheme(*kind).0: []})).collect()
}

pub(super) fn with(list: Value, item: Value) -> Value {
    match list {
        Value::Array(mut items) => {
            items.push(item);
            items.into()
        }
        other => other,
    }
}

/// A kind of credential's name and description.
pub(super) fn scheme(kind: Kind) -> (&'static str, Value) {
    match kind {
        Kind::Cookie => ("cookie", json!({"type": "apiKey", "in": "cookie", "name": crate::identity::COOKIE})),
        Kind::Bearer => ("bearer", json!({"type": "http", "scheme": "bearer"})),
        Kind::Basic => ("basic", json!({"type": "http", "scheme": "basic"})),
        Kind::Header { name, header } => (name, json!({"type": "apiKey", "in": "header", "name": header})),
    }
}

/// An answer with an error of the host.
pub(super) fn failure(description: &str) -> Value {
    json!({"description": description,
           "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}})
}

/// An operation of the host's own, for which nobody has to be a user.
pub(super) fn own(id: &str, description: &str, contents: &[(&str, Value)]) -> Value {
    let content: Map<String, Value> =
        contents.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({"schema": schema}))).collect();
    json!({
        "summary": description.trim_end_matches('.'),
        "description": description,
        "operationId": id,
        "security": [],
        "responses": {"200": {"description": description, "content": content}},
    })
}
