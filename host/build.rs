//! Compiles the three guests that come with Carrel, and the one that attacks it, for the binary to embed.

#[path = "build/wasm.rs"]
mod wasm;

fn main() {
    println!("cargo::rerun-if-changed=build");
    // One after the other: what is built together has all features of each, and the first three do without those of std.
    for packages in [&["notepad", "preferences", "assistant"][..], &["hostile"]] {
        if let Err(error) = wasm::build_guests("..", packages) {
            println!("cargo::error={error}");
        }
    }
}
