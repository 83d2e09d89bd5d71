//! Names the code of this crate, for who keeps what it has found out: see `CODE` in `src/lib.rs`.

use std::{
    env,
    error::Error,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src");
    // The versions of the crates that read and write WebAssembly, where this is built in its workspace.
    let mut files = vec![PathBuf::from("Cargo.toml")];
    for file in ["../../Cargo.toml", "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={file}");
        files.extend(Some(PathBuf::from(file)).filter(|file| file.is_file()));
    }
    collect(Path::new("src"), &mut files)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    env::var("CARGO_PKG_VERSION")?.hash(&mut hasher);
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    println!("cargo::rustc-env=CARREL_EXAMINE_CODE={:016x}", hasher.finish());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
