//! Bounds on a guest's file before it runs.
//!
//! The operator who starts the host may not trust the author of a guest. So the file's size, the time to compile it,
//! the size of each function and the initial size of all tables are bounded; wasmtime allocates tables while it
//! compiles. After that the limits of instances hold, for the first one as for all others.

use super::refused::Refused;
use crate::{limits::Limits, settings};
use std::{
    io,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use wasmparser::{Parser, Payload};

/// The initial elements of all tables of a guest together, at most. A few bytes can ask for ten millions in each of a
/// hundred tables, for which wasmtime takes more than a gigabyte as it compiles. Compilers emit some thousands.
const TABLES: u64 = 1_000_000;
/// Characters of a guest's own text that are shown in a message.
const SHOWN: usize = 200;

/// Reads a file of at most `most` bytes.
pub(super) fn read_guest(file: &Path, most: usize) -> Result<Vec<u8>, Refused> {
    settings::read_file(file, most).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => Refused::new(
            Limits::GUEST_SIZE.reached(format!("has more than {most} bytes")).to_string(),
            "build it without debug information, or allow more",
        ),
        _ => Refused { why: format!("cannot be read: {error}"), hint: None },
    })
}

/// Refuses a guest that would take too much memory to compile: by its tables, or by a function of more than `most`
/// bytes. A file that cannot be parsed passes; the compiler reports that error.
///
/// The compiler's memory grows with the function that each of its threads compiles: three megabytes of loops took
/// seven gigabytes before their time was over.
pub(super) fn check(wasm: &[u8], most: Option<usize>) -> Result<(), Refused> {
    let mut elements = 0u64;
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::TableSection(tables) => {
                for table in tables {
                    let Ok(table) = table else { return Ok(()) };
                    elements = elements.saturating_add(table.ty.initial);
                }
            }
            Payload::CodeSectionEntry(body) if most.is_some_and(|most| body.range().len() > most) => {
                let (size, most) = (body.range().len(), most.unwrap_or_default());
                return Err(Refused::new(
                    format!(
                        "has a function of {size} bytes, and `{}` allows {most}: to compile it takes a thousand times as \
                         much memory, or more",
                        Limits::GUEST_FUNCTION_SIZE.key
                    ),
                    "have it compiled for size, or split the function; or allow more, if you trust who wrote it",
                ));
            }
            _ => {}
        }
    }
    if elements > TABLES {
        return Err(Refused::new(
            format!("has tables that begin with {elements} elements, and {TABLES} are allowed"),
            "a table can grow when it is needed",
        ));
    }
    Ok(())
}

/// Does work, named by `what`, on a thread of its own, and waits for it for at most `time`.
///
/// The work cannot be stopped. If it takes too long, it goes on until the process ends, which is soon, since the host
/// does not start.
pub(super) fn within<T: Send + 'static>(
    time: Option<Duration>,
    (what, hint): (&str, &str),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let (done, doing) = mpsc::channel();
    let thread = thread::Builder::new().name("carrel-compiler".into()).spawn(move || done.send(work()));
    let failed =
        |why: &str| Refused { why: format!("cannot be used, as the host failed to {what}: {why}"), hint: None };
    thread.map_err(|error| failed(&error.to_string()))?;
    let panicked = "it panicked";
    let Some(time) = time else { return doing.recv().map_err(|_| failed(panicked)) };
    doing.recv_timeout(time).map_err(|error| match error {
        RecvTimeoutError::Disconnected => failed(panicked),
        RecvTimeoutError::Timeout => Refused::new(
            format!("takes longer to {what} than `{}` allows, which is {time:?}", Limits::GUEST_COMPILE_TIME.key),
            hint,
        ),
    })
}

/// A guest's text, cut to fit a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
