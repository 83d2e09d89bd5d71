//! Compiles guests of this workspace for WebAssembly, from a build script.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-wasip2";

/// Compiles packages of the workspace at `root` and copies `{package}.wasm` into this script's `OUT_DIR`.
///
/// Cargo cannot build for two targets at once, so that this starts another cargo, with a target folder of its own: the
/// outer one holds the lock of the usual one.
pub fn build_guests(root: &str, packages: &[&str]) -> Result<(), String> {
    let root = fs::canonicalize(root).map_err(|error| format!("the workspace's folder: {error}"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for watched in ["guests", "tests/guests", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    let folder = target_folder(&out).join("guests");
    add_target(&folder)?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    // What the outer cargo set for itself or for this script is not meant for the guests.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let meant = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
        let meant = meant.iter().any(|prefix| name.starts_with(prefix));
        let outer = name.starts_with("CARGO") || name.starts_with("RUST") || name == "TARGET" || name == "HOST";
        let toolchain = name == "RUSTUP_TOOLCHAIN" || name == "RUSTUP_HOME";
        if outer && !meant && !toolchain {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        // Stack, data and the first of the heap are two pages of 64 KiB: the stack, which comes first, takes what the
        // others leave. It ends with a page of 4 KiB: what follows is data that is never written to, and a page that a
        // call writes to is copied for it, unless it is all stack. The deepest JSON that a guest reads takes less than
        // 93 KiB of it.
        .env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", "-Clink-arg=-zstack-size=114688");
    for package in packages {
        cargo.args(["--package", package]);
    }
    let built = cargo.output().map_err(|error| format!("cargo could not be started for the guests: {error}"))?;
    if !built.status.success() {
        let errors = String::from_utf8_lossy(&built.stderr).into_owned();
        return Err(format!("the guests could not be compiled:\n{errors}").replace('\n', "\ncargo::error="));
    }
    for package in packages {
        let name = format!("{package}.wasm");
        let built = folder.join(TARGET).join("guest").join(&name);
        fs::copy(&built, out.join(&name)).map_err(|error| format!("{}: {error}", built.display()))?;
    }
    Ok(())
}

/// Adds the target to the toolchain, if it is missing.
fn add_target(folder: &Path) -> Result<(), String> {
    if has_target()? {
        return Ok(());
    }
    // Build scripts run side by side, and rustup does not: the second waits, and finds the target there.
    let lock = fs::create_dir_all(folder).and_then(|()| fs::File::create(folder.join("adding-target.lock")));
    let lock = lock.map_err(|error| format!("{}: {error}", folder.display()))?;
    lock.lock().map_err(|error| format!("{}: {error}", folder.display()))?;
    if has_target()? {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        rustup.arg("--toolchain").arg(toolchain);
    }
    let help = format!("the guests need the target {TARGET}: add it with `rustup target add {TARGET}`");
    match rustup.output() {
        Ok(added) if added.status.success() => Ok(()),
        Ok(added) => Err(format!("{help}; rustup said: {}", String::from_utf8_lossy(&added.stderr).trim())),
        Err(error) => Err(format!("{help}, or with your system's packages; there is no rustup here: {error}")),
    }
}

fn has_target() -> Result<bool, String> {
    let rustc = env::var_os("RUSTC").unwrap_or("rustc".into());
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let folder = asked.map_err(|error| format!("rustc could not be started: {error}"))?.stdout;
    let folder = String::from_utf8_lossy(&folder).trim().to_owned();
    Ok(!folder.is_empty() && Path::new(&folder).is_dir())
}

/// The target folder that the outer cargo builds in: `OUT_DIR` is `{target}/{profile}/build/{package}/out`.
fn target_folder(out: &Path) -> PathBuf {
    let is_target = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    out.ancestors().find(is_target).unwrap_or(out).to_owned()
}
