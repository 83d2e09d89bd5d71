//! Guests that are written as text, assembled when a test wants one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guests");

/// Assembles a guest of `guests/raw`, `guests/snapshots` or `guests/framed`, once for each process; returns the
/// component's path.
pub(super) fn assembled(name: &str) -> PathBuf {
    static ASSEMBLED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let file = Path::new(env!("OUT_DIR")).join(name).with_extension("wasm");
    let mut assembled = ASSEMBLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !assembled.contains(name) {
        let wasm = wat::parse_str(text(name)).unwrap_or_else(|error| panic!("{name}.wat: {error}"));
        // Another process may read it just now.
        let unfinished = file.with_extension(std::process::id().to_string());
        let written = fs::write(&unfinished, wasm).and_then(|()| fs::rename(&unfinished, &file));
        written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assembled.insert(name.to_owned());
    }
    file
}

fn text(name: &str) -> String {
    let read = |folder: &str| fs::read_to_string(Path::new(SOURCES).join(folder).join(name).with_extension("wat"));
    if let Ok(text) = read("raw").or_else(|_| read("snapshots")) {
        return text;
    }
    let framed = read("framed").unwrap_or_else(|error| panic!("no guest {name}: {error}"));
    let frame = fs::read_to_string(Path::new(SOURCES).join("frame.wat")).expect("the frame");
    let (core, component) = framed.split_once(";;; component").unwrap_or((&framed, ""));
    let name = name.replace('-', "_");
    let frame = frame.replace("%length%", &name.len().to_string()).replace("%name%", &name);
    frame.replace("%core%", core).replace("%component%", component)
}
