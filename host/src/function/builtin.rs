//! The guests that come with Carrel, which `host/build.rs` compiles and embeds.

/// Name of the crate, and the component.
pub(super) const BUILTIN: [(&str, &[u8]); 3] = [
    ("notepad", include_bytes!(concat!(env!("OUT_DIR"), "/notepad.wasm"))),
    ("preferences", include_bytes!(concat!(env!("OUT_DIR"), "/preferences.wasm"))),
    ("assistant", include_bytes!(concat!(env!("OUT_DIR"), "/assistant.wasm"))),
];
