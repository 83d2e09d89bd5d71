//! Compiles the guests that the tests attack with.

#[path = "../host/build/wasm.rs"]
mod wasm;

fn main() {
    println!("cargo::rerun-if-changed=../host/build");
    if let Err(error) = wasm::build_guests("..", &["hostile", "traveller"]) {
        println!("cargo::error={error}");
    }
}
