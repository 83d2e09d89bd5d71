//! Secrets that this host shares with an issuer, or signs cookies with.

use serde_json::Value;

/// Bytes of a shared secret, at least: as many as the hash of HS256 has (RFC 7518, 3.2).
const SECRET: usize = 32;

/// Reads a shared secret, and never repeats it in a message.
pub(super) fn secret(value: &Value) -> Result<String, String> {
    match value {
        Value::String(it) if it.len() >= SECRET => Ok(it.clone()),
        Value::String(it) => Err(format!("must have {SECRET} bytes at least, and has {}: make it by chance", it.len())),
        _ => Err(format!("must be a text of {SECRET} bytes at least")),
    }
}
