//! Compiles the guests that the tests attack with.

use std::{env, error::Error, fs, path::PathBuf};

#[path = "../host/build/wasm.rs"]
mod wasm;

fn main() {
    println!("cargo::rerun-if-changed=../host/build");
    if let Err(error) = wasm::build_guests("..", &["hostile", "traveller"]) {
        println!("cargo::error={error}");
    }
    if let Err(error) = assemble() {
        println!("cargo::error={error}");
    }
}

/// Makes `{name}.wasm` of each guest that is written as text.
fn assemble() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for folder in ["guests/raw", "guests/snapshots"] {
        for file in fs::read_dir(folder)? {
            let file = file?.path();
            let name = file.file_stem().unwrap_or_default();
            fs::write(out.join(name).with_extension("wasm"), wat::parse_file(&file)?)?;
        }
    }
    let frame = fs::read_to_string("guests/frame.wat")?;
    for file in fs::read_dir("guests/framed")? {
        let file = file?.path();
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let (name, text) = (stem.replace('-', "_"), fs::read_to_string(&file)?);
        let (core, component) = text.split_once(";;; component").unwrap_or((&text, ""));
        let frame = frame.replace("%length%", &name.len().to_string()).replace("%name%", &name);
        let guest = frame.replace("%core%", core).replace("%component%", component);
        let wasm = wat::parse_str(guest).map_err(|error| format!("{}: {error}", file.display()))?;
        fs::write(out.join(&*stem).with_extension("wasm"), wasm)?;
    }
    Ok(())
}
