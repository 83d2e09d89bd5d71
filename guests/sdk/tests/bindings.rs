//! The bindings are those that wit-bindgen makes of the contract. They are kept in the sources, so that who writes a guest
//! need not compile what makes them. With `UPDATE_GOLDEN=1` the file is written anew.
#![allow(clippy::expect_used)]

use std::{env, fs, path::Path};
use wit_bindgen_core::{Files, WorldGenerator, wit_parser::Resolve};
use wit_bindgen_rust::Opts;

#[test]
fn the_bindings_are_those_of_the_contract() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder.join("../../wit")).expect("the contract");
    let world = resolve.select_world(&[package], Some("guest")).expect("the world of guests");
    let options = Opts {
        format: true,
        pub_export_macro: true,
        default_bindings_module: Some("carrel_guest::bindings".into()),
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("bindings");
    let (_, made) = files.iter().next().expect("one file");
    let file = folder.join("src/bindings/generated.rs");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, made).expect("the file");
    }
    let kept = fs::read(&file).expect("the bindings");
    assert!(kept == made, "wit/ was changed: UPDATE_GOLDEN=1 cargo test -p carrel-guest --test bindings");
}
