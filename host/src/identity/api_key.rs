//! API keys: long random texts that a caller sends as they are. The host knows only their hashes.
//!
//! A key has so many random bits that its hash can be looked up and needs no salt nor slow function: nobody can try
//! them all. Hashes are compared in constant time.

use serde_json::Value;
use std::fmt;

/// The hash of an API key.
#[derive(Clone, Copy)]
pub struct KeyHash(blake3::Hash);

/// Random bytes of a new key.
const RANDOM: usize = 32;
/// The prefix of a key's text, by which people and secret scanners know it.
const PREFIX: &str = "carrel_";
/// The prefix of a hash's text.
const KIND: &str = "blake3:";

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &str) -> Self {
        Self(blake3::hash(key.as_bytes()))
    }

    /// The text of a hash, as a configuration has it.
    pub(crate) fn from_value(value: &Value) -> Result<Self, String> {
        let help = "must be a key's hash, `blake3:` and 64 hexadecimal digits, as `carrel key` makes it";
        let text = value.as_str().ok_or(help)?;
        let digits = text.strip_prefix(KIND).ok_or(help)?;
        // The text is not repeated: it may be the key itself, by mistake.
        blake3::Hash::from_hex(digits.to_ascii_lowercase()).map(Self).map_err(|_| help.to_owned())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND}{}", self.0.to_hex())
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In constant time, as the library compares hashes.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for KeyHash {}

/// A new key, and its hash.
pub fn generate() -> (String, KeyHash) {
    let random: [u8; RANDOM] = rand::random();
    let key = format!("{PREFIX}{}", blake3::Hash::from_bytes(random).to_hex());
    let hash = KeyHash::of(&key);
    (key, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_hash_belong_together_and_the_hash_is_read_back() {
        let (key, hash) = generate();
        assert!(key.starts_with("carrel_") && key.len() == 7 + 64);
        assert_eq!(KeyHash::from_value(&Value::from(hash.to_string())), Ok(hash));
        assert_eq!(KeyHash::of(&key), hash);
        assert_ne!(generate().1, hash);
    }

    #[test]
    fn what_is_no_hash_is_refused_without_repeating_it() {
        for wrong in [Value::from("carrel_secret"), Value::from("blake3:12"), Value::from(5), Value::from("blake3:zz")]
        {
            let why = KeyHash::from_value(&wrong).expect_err("it is no hash");
            assert!(!why.contains("secret") && why.contains("carrel key"), "{why}");
        }
    }
}
