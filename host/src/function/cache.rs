//! Compiled guests on disk, so that a host starts in milliseconds.
//!
//! A file's name is a hash of the guest, of the code that examines it, of wasmtime's version and settings and of this
//! machine's features: if any of them changes, another file is looked for. The file begins with a hash of the rest, so
//! one that is cut short or damaged does not match, and is made anew. A folder that users other than this one and root
//! could write to is not used at all: its writers could run code in this process.
//!
//! # Safety
//!
//! This module is the host's only one with `unsafe`: wasmtime asks for it to load compiled code, because it does not
//! check that code. The hash and the folder's permissions are what makes sure that only files that this very program
//! has written are loaded.
#![allow(unsafe_code)]

use super::{
    GuestCache,
    bounds::Workers,
    compiled::{Compiled, Stored},
};
use crate::state;
use std::{
    fs,
    hash::{Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockWriteGuard},
    time::{Duration, SystemTime},
};
use wasmtime::{Engine, component::Component};

/// The first bytes of a file; the hash of the rest follows.
const MAGIC: &[u8] = b"carrel compiled guest 3\n";
const HASH: usize = blake3::OUT_LEN;
/// The time after which a file that no start has used is deleted.
const UNUSED: Duration = Duration::from_secs(60 * 24 * 3600);

/// The lock that each thread reads while it writes a file, so that a process that ends can wait for all of them.
static WRITING: RwLock<()> = RwLock::new(());

/// Waits until each file that is being written is whole, for a process that is about to end. No other is begun while
/// the guard lives.
pub(crate) fn finish_writing() -> RwLockWriteGuard<'static, ()> {
    WRITING.write().unwrap_or_else(PoisonError::into_inner)
}

/// A folder of compiled guests, or none.
#[derive(Debug, Clone)]
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    /// Opens the folder, and makes it if it is not there. If that fails, the host starts all the same, but slower; it
    /// warns if the configuration names the folder.
    pub(super) fn open(setting: &GuestCache) -> Self {
        let (folder, named) = match setting {
            GuestCache::Off => return Self(None),
            GuestCache::Folder(folder) => (Some(folder.clone()), true),
            GuestCache::Default => (default_folder(), false),
        };
        let Some(folder) = folder else { return Self(None) };
        match prepare(&folder) {
            Ok(()) => Self(Some(folder)),
            Err(error) => {
                let folder = folder.display();
                match named {
                    true => tracing::warn!("guest_cache: {folder} is not used, each start compiles: {error}"),
                    false => tracing::debug!("no cache of compiled guests in {folder}: {error}"),
                }
                Self(None)
            }
        }
    }

    /// Loads a guest from the cache, or has it compiled by these workers.
    ///
    /// # Errors
    ///
    /// wasmtime's, of a guest that is no valid component.
    pub(super) fn compile(&self, engine: &Engine, wasm: &[u8], workers: &Workers) -> wasmtime::Result<Compiled> {
        let compile = || workers.together(|| Compiled::new(engine, wasm));
        let Some(folder) = &self.0 else { return compile() };
        let key = key(engine, wasm);
        let file = folder.join(format!("{key}.cwasm"));
        if let Some(compiled) = load(engine, &file, &key) {
            return Ok(compiled);
        }
        let compiled = compile()?;
        if compiled.lacks_shell {
            return Ok(compiled);
        }
        if let Err(error) = compiled.serialize().map_err(io::Error::other).and_then(|code| store(&file, &key, &code)) {
            tracing::warn!("a compiled guest could not be kept in {}: {error}", file.display());
        }
        delete_unused(folder);
        Ok(compiled)
    }
}

fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("carrel"))
}

fn prepare(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::metadata(folder)?;
    // SAFETY: `geteuid` has no preconditions and cannot fail.
    let me = unsafe { libc::geteuid() };
    // Root could put code into this process in any case. A container's image has a folder of root's.
    if metadata.uid() != me && metadata.uid() != 0 {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("other users can write to it (chmod go-w makes it usable)"));
    }
    Ok(())
}

fn key(engine: &Engine, wasm: &[u8]) -> String {
    struct Into<'a>(&'a mut blake3::Hasher);

    impl Hasher for Into<'_> {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }

    let mut hasher = blake3::Hasher::new();
    // Files of another form have other names.
    hasher.update(MAGIC).update(state::CODE.as_bytes()).update(wasm);
    engine.precompile_compatibility_hash().hash(&mut Into(&mut hasher));
    hasher.finalize().to_hex().to_string()
}

fn load(engine: &Engine, file: &Path, key: &str) -> Option<Compiled> {
    let bytes = fs::read(file).ok()?;
    let code = verified(&bytes, key);
    let Some(code) = code else {
        tracing::warn!("{} is damaged, and is made anew", file.display());
        return None;
    };
    // SAFETY: `code` hashes to what was written before it, so it is what `store` wrote, in a folder that only this
    // user and root can write to; and the file's name holds the hash of wasmtime's version and settings, so it was this
    // engine.
    let load = |code: &[u8]| unsafe { Component::deserialize(engine, code) };
    let Some(Stored { whole, shell, state }) = Stored::new(code) else {
        tracing::warn!("{} is of no use: it has another form", file.display());
        return None;
    };
    let compiled = load(whole)
        .and_then(|whole| Ok(Compiled { whole, shell: shell.map(load).transpose()?, state, lacks_shell: false }));
    let compiled = compiled.inspect_err(|error| tracing::warn!("{} is of no use: {error:#}", file.display())).ok()?;
    mark_used(file);
    Some(compiled)
}

fn verified<'a>(bytes: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let (hash, code) = bytes.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (seal(key, code).as_bytes() == hash).then_some(code)
}

/// The hash that a file has before its code. The key is part of it, so that a file that was renamed is not taken for
/// another guest's.
fn seal(key: &str, code: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(key.as_bytes()).update(code).finalize()
}

/// Writes a file as a whole or not at all.
fn store(file: &Path, key: &str, code: &[u8]) -> io::Result<()> {
    let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    let unfinished = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&unfinished).and_then(|mut out| {
        out.write_all(MAGIC)?;
        out.write_all(seal(key, code).as_bytes())?;
        out.write_all(code)
    });
    let renamed = written.and_then(|()| fs::rename(&unfinished, file));
    if renamed.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    renamed
}

/// Best effort: a file that cannot be marked is at worst compiled again some day.
fn mark_used(file: &Path) {
    if let Ok(file) = fs::File::options().append(true).open(file) {
        let _ = file.set_modified(SystemTime::now());
    }
}

fn delete_unused(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let ours = entry.path().extension().is_some_and(|extension| extension == "cwasm" || extension == "tmp");
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if ours && age.is_some_and(|age| age > UNUSED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
