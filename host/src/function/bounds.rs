//! Bounds on a guest's file before it runs.
//!
//! The operator who starts the host may not trust the author of a guest. So the file's size, the time to compile it,
//! the size of each function and the initial size of all tables are bounded; wasmtime allocates tables while it
//! compiles. After that the limits of instances hold, for the first one as for all others.

use super::refused::Refused;
use crate::{limits::Limits, settings};
use carrel_arena::ThreadClock;
use rayon::ThreadPoolBuilder;
use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};
use wasmparser::{Parser, Payload};

/// The initial elements of all tables of a guest together, at most. A few bytes can ask for ten millions in each of a
/// hundred tables, for which wasmtime takes more than a gigabyte as it compiles. Compilers emit some thousands.
const TABLES: u64 = 1_000_000;
/// The least and the longest time between two looks at what work has taken.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(100);
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

/// Threads that do a piece of work, and what it has cost them.
#[derive(Debug, Default, Clone)]
pub(super) struct Workers(Arc<Mutex<Vec<ThreadClock>>>);

impl Workers {
    /// Has the thread that asks be counted, if the system can.
    fn join(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ThreadClock::of_this_thread());
    }

    /// The processor time that they have had, and how many they are.
    fn spent(&self) -> (Duration, u32) {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (clocks.iter().map(|clock| clock.read()).sum(), clocks.len() as u32)
    }

    /// Does work on as many threads as there are processors, where it is made for that, as the compiler is.
    pub(super) fn together<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let (workers, name) = (self.clone(), |_| "carrel-compiler".to_owned());
        let threads = ThreadPoolBuilder::new().thread_name(name).start_handler(move |_| workers.join()).build();
        // Where no thread can be made, the one that asks does all of it, and is counted already.
        let threads = threads.or_else(|_| ThreadPoolBuilder::new().num_threads(1).use_current_thread().build());
        match threads {
            Ok(threads) => threads.install(work),
            Err(_) => work(),
        }
    }
}

/// Does work, named by `what`, on a thread of its own, and waits until it has taken `time` of processors: by a clock on
/// the wall, a good guest would be refused where others keep the processors busy.
///
/// The work cannot be stopped. If it takes too long, it goes on until the process ends, which is soon, since the host
/// does not start.
pub(super) fn within<T: Send + 'static>(
    time: Option<Duration>,
    (what, hint): (&str, &str),
    work: impl FnOnce(&Workers) -> T + Send + 'static,
) -> Result<T, Refused> {
    let (done, doing) = mpsc::channel();
    let workers = Workers::default();
    let works = workers.clone();
    let thread = thread::Builder::new().name("carrel-compiler".into()).spawn(move || {
        works.join();
        done.send(work(&works))
    });
    let failed =
        |why: &str| Refused { why: format!("cannot be used, as the host failed to {what}: {why}"), hint: None };
    thread.map_err(|error| failed(&error.to_string()))?;
    let panicked = "it panicked";
    let Some(time) = time else { return doing.recv().map_err(|_| failed(panicked)) };
    loop {
        let (spent, threads) = workers.spent();
        if spent >= time {
            let key = Limits::GUEST_COMPILE_TIME.key;
            return Err(Refused::new(
                format!("takes more processor time to {what} than `{key}` allows, which is {time:?}"),
                format!("{hint}; or allow more, if you trust who wrote it"),
            ));
        }
        // Sooner it cannot be over, and there may be more of them meanwhile.
        match doing.recv_timeout(((time - spent) / threads.max(1)).clamp(SOON, LATER)) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Disconnected) => return Err(failed(panicked)),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A guest's text, cut to fit a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use carrel_arena::processor_time;

    fn spin(time: Duration) {
        let until = processor_time() + time;
        while processor_time() < until {}
    }

    #[test]
    fn the_time_of_all_processors_counts_and_no_other() {
        let (most, work) = (Some(Duration::from_millis(100)), ("work", "less work is done sooner"));
        within(most, work, |_| thread::sleep(Duration::from_millis(300))).unwrap();
        let half = || spin(Duration::from_millis(80));
        within(most, work, move |_| half()).unwrap();
        within(most, work, move |workers| workers.together(half)).unwrap();
        let refused = within(most, work, move |workers| workers.together(|| rayon::join(half, half))).unwrap_err();
        assert_eq!(
            refused.why,
            "takes more processor time to work than `limits.guest_compile_time` allows, which is 100ms"
        );
        let hint = "less work is done sooner; or allow more, if you trust who wrote it";
        assert_eq!(refused.hint.as_deref(), Some(hint));
    }
}
