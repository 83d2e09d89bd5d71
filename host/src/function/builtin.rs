//! The guests that come with Carrel, which `host/build.rs` compiles and embeds.

/// The name that the guest calls itself by, and the component.
pub(super) const BUILTIN: [(&str, &[u8]); 3] = [
    ("per_user_notepad", include_bytes!(concat!(env!("OUT_DIR"), "/notepad.wasm"))),
    ("per_user_preferences", include_bytes!(concat!(env!("OUT_DIR"), "/preferences.wasm"))),
    ("per_user_assistant", include_bytes!(concat!(env!("OUT_DIR"), "/assistant.wasm"))),
];
