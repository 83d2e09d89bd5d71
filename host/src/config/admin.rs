//! `admin`: the listener with the operator's routes.

use crate::{
    identity::KeyHash,
    settings::reader::{Section, count, text},
};

/// `admin`: the listener with the operator's routes.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The name or address to listen on.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The hash of the token that requests must have; none if everybody who can connect is the operator.
    pub token: Option<KeyHash>,
}

impl Admin {
    pub(super) fn read(top: &mut Section<'_>) -> Option<Self> {
        if !top.has("admin") {
            top.take("admin");
            return None;
        }
        let mut section = top.section("admin");
        let admin = Self {
            host: section.read("host", "localhost".into(), text),
            port: section.read("port", 8001, |value| count(0, u16::MAX.into())(value).map(|port| port as u16)),
            token: section.read("token", None, |value| KeyHash::from_value(value).map(Some)),
        };
        section.finish();
        Some(admin)
    }
}
