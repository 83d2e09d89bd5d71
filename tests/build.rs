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
    Ok(())
}
