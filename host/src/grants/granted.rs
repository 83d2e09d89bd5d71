//! The grants of a function: what it may reach outside of its sandbox.

use super::destination::{Destination, RequestTarget};
use crate::settings::{
    Problem,
    reader::{Section, describe, text},
};
use serde_json::{Value, json};
use std::{fmt, io, path::Path, path::PathBuf, sync::Arc};
use tokio::sync::Semaphore;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, filesystem::WasiFilesystemCtx};

/// Requests of one function that are under way: each takes a descriptor of the process, and up to some 100 KiB.
const CONNECTIONS: usize = 500;
/// Bytes that the names and values of an environment may have together: each instance has a copy.
const ENVIRONMENT: usize = 8 << 10;
/// Folders of one function: each takes one of the handles that an instance may hold.
const FOLDERS: usize = 32;

/// The grants of one function.
#[derive(Default)]
pub struct Grants {
    environment: Vec<(String, String)>,
    folders: Vec<Folder>,
    /// The folders, open.
    files: WasiFilesystemCtx,
    pub(super) http: HttpGrant,
}

/// A folder of the host that a guest may read.
struct Folder {
    /// The folder's path as the guest sees it.
    guest: String,
    host: PathBuf,
}

/// The grant of outgoing requests.
pub(super) struct HttpGrant {
    destinations: Vec<Destination>,
    /// The permits for connections, shared by all instances of the function.
    pub(super) connections: Arc<Semaphore>,
}

impl Default for HttpGrant {
    fn default() -> Self {
        Self { destinations: Vec::new(), connections: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl HttpGrant {
    /// Returns true if a request may go to this target.
    pub(super) fn permits(&self, target: &RequestTarget) -> bool {
        self.destinations.iter().any(|destination| destination.permits(target))
    }

    /// Returns true if a grant names this very address, for the target's scheme and port.
    pub(super) fn names(&self, address: std::net::IpAddr, target: &RequestTarget) -> bool {
        self.permits(&target.at(address))
    }
}

impl Grants {
    /// Reads `allow`, and opens its folders.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let environment = read_environment(&mut section);
        let (folders, files) = read_folders(section.section("folders"));
        let http = HttpGrant { destinations: read_destinations(&mut section), ..HttpGrant::default() };
        section.finish();
        Self { environment, folders, files, http }
    }

    /// A folder, by the name that the guest has for it, and nothing else.
    pub(crate) fn of_folder(host: &Path, guest: &str) -> io::Result<Self> {
        let mut wasi = WasiCtxBuilder::new();
        open(&mut wasi, host, guest)?;
        let folders = vec![Folder { guest: guest.to_owned(), host: host.to_owned() }];
        Ok(Self { folders, files: wasi.build().filesystem().clone(), ..Self::default() })
    }

    /// Gives a guest's WASI the environment.
    pub(crate) fn give(&self, wasi: &mut WasiCtxBuilder) {
        for (name, value) in &self.environment {
            wasi.env(name, value);
        }
    }

    /// Gives a guest's WASI the folders.
    pub(crate) fn give_files(&self, wasi: &mut WasiCtx) {
        if !self.folders.is_empty() {
            *wasi.filesystem() = self.files.clone();
        }
    }

    /// Returns true if the grants lead to anything outside of the sandbox.
    pub(crate) fn reach_out(&self) -> bool {
        !self.folders.is_empty() || !self.http.destinations.is_empty()
    }

    /// Lists the grants, a line for each kind; of the environment only the names.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |kind: &str, items: Vec<String>| {
            if !items.is_empty() {
                lines.push(format!("{kind} {}", items.join(", ")));
            }
        };
        add("environment", self.environment.iter().map(|(name, _)| name.clone()).collect());
        let folder = |it: &Folder| format!("{} (read-only: {})", it.guest, it.host.display());
        add("folders", self.folders.iter().map(folder).collect());
        add("http", self.http.destinations.iter().map(ToString::to_string).collect());
        lines
    }

    /// Lists the grants as JSON.
    pub(crate) fn as_json(&self) -> Value {
        let folder = |it: &Folder| (it.guest.clone(), Value::from(it.host.display().to_string()));
        json!({
            "environment": self.environment.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "folders": self.folders.iter().map(folder).collect::<serde_json::Map<_, _>>(),
            "http": self.http.destinations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grants").field(&self.lines()).finish()
    }
}

/// Values are secrets, and errors are printed: no error shows a value.
fn read_environment(section: &mut Section<'_>) -> Vec<(String, String)> {
    let (path, problems) = (section.path().with("environment"), section.problems());
    let variables = match section.take("environment") {
        None => return Vec::new(),
        Some(Value::Object(variables)) => variables,
        Some(_) => {
            problems.add(&path, "must be a map of names and values");
            return Vec::new();
        }
    };
    let mut environment = Vec::new();
    for (name, value) in variables {
        let key = path.with(&name);
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.add(&key, "is no name of an environment variable: it is empty, or has a `=` in it");
            continue;
        }
        match value {
            Value::String(value) if !value.contains('\0') => environment.push((name, value)),
            Value::String(_) => problems.add(&key, "has a zero byte in it"),
            _ => problems.push(Problem::new(key, "must be text").hint("put the value in quotes")),
        }
    }
    let size: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > ENVIRONMENT {
        problems.add(&path, format!("has {size} bytes of names and values, and may have {ENVIRONMENT}"));
    }
    environment
}

fn read_folders(mut section: Section<'_>) -> (Vec<Folder>, WasiFilesystemCtx) {
    let (path, problems) = (section.path().clone(), section.problems());
    let mut folders = Vec::new();
    let mut wasi = WasiCtxBuilder::new();
    for (guest, value) in section.rest() {
        let key = path.with(&guest);
        if !is_plain_path(&guest) {
            let problem = Problem::new(key, "is no path for a guest");
            problems.push(problem.hint("it starts with `/`, has no `/` at its end, and no part is `.`, `..` or empty"));
            continue;
        }
        let host = match text(&value) {
            Ok(host) => problems.beside(&key, &host),
            Err(message) => {
                problems.add(&key, format!("the folder {message}"));
                continue;
            }
        };
        match open(&mut wasi, &host, &guest) {
            Ok(()) => folders.push(Folder { guest, host }),
            Err(error) => problems.push(
                Problem::new(key, format!("{} cannot be opened: {error}", host.display()))
                    .hint("it must be a folder that the host may read; paths are relative to the file's own"),
            ),
        }
    }
    if folders.len() > FOLDERS {
        problems.add(&path, format!("has {} folders, and may have {FOLDERS}", folders.len()));
    }
    (folders, wasi.build().filesystem().clone())
}

fn open(wasi: &mut WasiCtxBuilder, host: &Path, guest: &str) -> io::Result<()> {
    // Opening a pipe would wait for somebody to write to it.
    if !std::fs::metadata(host)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    wasi.preopened_dir(host, guest, FsPerms::ReadOnly).map_err(|error| match error.downcast::<io::Error>() {
        Ok(error) => error,
        Err(error) => io::Error::other(error.to_string()),
    })?;
    Ok(())
}

/// Absolute, and written in the one way in which a guest's own library looks for it.
fn is_plain_path(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    path.strip_prefix('/').is_some_and(|rest| rest.is_empty() || rest.split('/').all(part))
}

fn read_destinations(section: &mut Section<'_>) -> Vec<Destination> {
    let (path, problems) = (section.path().with("http"), section.problems());
    let items = match section.take("http") {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => {
            problems.add(&path, format!("must be a list of hosts, and is {}", describe(&other)));
            Vec::new()
        }
    };
    let mut destinations = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match text(item).and_then(|text| Destination::parse(&text)) {
            Ok(destination) => destinations.push(destination),
            Err(message) => problems.push(
                Problem::new(path.with(index.to_string()), message)
                    .hint("for example \"api.example.com\", \"*.example.org:8443\" or \"http://127.0.0.1:9000\""),
            ),
        }
    }
    destinations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{KeyPath, reader::Problems};

    fn read(value: Value) -> (Grants, Vec<String>) {
        let problems = Problems::default();
        let grants = Grants::read(Section::new(KeyPath::parse("allow"), value, &problems));
        let told = problems.into_vec().into_iter().map(|it| format!("{}: {}", it.path, it.message)).collect();
        (grants, told)
    }

    #[test]
    fn values_are_not_shown() {
        let (grants, _) = read(json!({"environment": {"KEY": "secret"}, "folders": {"/a": "/"}}));
        assert_eq!(grants.lines(), ["environment KEY", "folders /a (read-only: /)"]);
        assert!(!format!("{grants:?} {}", grants.as_json()).contains("secret"));
        let (_, told) = read(json!({"environment": {"A": 1234, "B": ["secret"], "C": "secret\0", "": "secret"}}));
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told.iter().all(|it| !it.contains("secret") && !it.contains("1234")), "{told:?}");
        assert_eq!(read(json!({"environment": "secret"})).1, ["allow.environment: must be a map of names and values"]);
    }

    #[test]
    fn a_guests_path_is_written_in_one_way() {
        for wrong in ["", "data", "./data", "/data/", "//data", "/data/..", "/../data", "/a\nb"] {
            assert!(!is_plain_path(wrong), "{wrong:?}");
        }
        assert!(is_plain_path("/") && is_plain_path("/data") && is_plain_path("/data/of mine"));
    }
}
