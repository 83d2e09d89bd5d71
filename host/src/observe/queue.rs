//! Lines of the log that wait for stderr, and the thread that writes them.
//!
//! # What must always hold
//!
//! * Nothing that logs waits, whatever stderr is.
//! * Waiting lines take at most [`SIZE`] bytes, counted after escaping, which can turn one byte into six. They count
//!   as the host's memory; if there is none for a guest's line, the line is dropped.
//! * Guests leave [`HOSTS`] bytes of it to the host's own lines.
//! * The number of dropped lines is logged as soon as there is room again.

use super::{format::LogFormat, timestamp::timestamp};
use crate::limits::memory::{Charge, Memory};
use serde_json::json;
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that lines may take while they wait.
const SIZE: usize = 4 << 20;
/// Bytes of these that are reserved for the host's own lines.
const HOSTS: usize = 512 << 10;
/// Bytes that a line takes besides its text.
const LINE: usize = 48;
/// The longest time for which the end waits for stderr to take the remaining lines.
const END: Duration = Duration::from_secs(1);

/// Lines that wait.
#[derive(Debug, Clone)]
pub(super) struct LogQueue(Arc<LogShared>);

#[derive(Debug)]
struct LogShared {
    format: LogFormat,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Box<[u8]>>,
    /// Bytes of the waiting lines, with the one that is being written.
    bytes: usize,
    /// Dropped lines that are not reported yet.
    dropped: u64,
    ended: bool,
    /// True once all lines are written, and none can come.
    done: bool,
    charge: Option<Charge>,
}

impl LogQueue {
    pub(super) fn new(format: LogFormat) -> Self {
        Self(Arc::new(LogShared { format, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Starts the thread that writes the lines.
    pub(super) fn write_to(&self, mut out: impl Write + Send + 'static) -> io::Result<()> {
        let shared = self.0.clone();
        let write = move || {
            while let Some(line) = shared.next() {
                // Nobody is there to be told that stderr is closed.
                let _ = out.write_all(&line);
                shared.written(line.len());
            }
            shared.lock().done = true;
            shared.changed.notify_all();
        };
        thread::Builder::new().name("carrel-log".into()).spawn(write).map(drop)
    }

    /// Charges the waiting lines to this memory from now on.
    pub(super) fn count(&self, memory: &Arc<Memory>) {
        let mut state = self.0.lock();
        state.charge = Some(memory.charge(state.bytes));
    }

    /// Waits until all lines are written, if stderr takes them soon.
    pub(super) fn end(&self) {
        let mut state = self.0.lock();
        state.ended = true;
        self.0.changed.notify_all();
        let waited = self.0.changed.wait_timeout_while(state, END, |state| !state.done);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl LogShared {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8], of_guest: bool) {
        let mut state = self.lock();
        // A guest's line waits for half of the room, so that one report stands for many dropped lines.
        if state.dropped > 0 && (!of_guest || state.bytes <= SIZE / 2) {
            // Reported in the place of the missing lines.
            let told = self.told(state.dropped);
            if state.take(&told, false) {
                state.dropped = 0;
            }
        }
        if state.dropped > 0 || !state.take(line, of_guest) {
            state.dropped += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The next line; none when there is none any more.
    fn next(&self) -> Option<Box<[u8]>> {
        let idle = |state: &mut QueueState| state.lines.is_empty() && state.dropped == 0 && !state.ended;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.lines.is_empty() && state.dropped > 0 {
            let told = self.told(state.dropped);
            state.dropped = 0;
            state.put(&told);
        }
        state.lines.pop_front()
    }

    fn written(&self, len: usize) {
        let mut state = self.lock();
        let bytes = state.bytes - (len + LINE);
        state.set(bytes);
        if state.lines.is_empty() && bytes == 0 {
            state.lines = VecDeque::new();
        }
    }

    /// The line that reports dropped ones, in the form of all lines.
    fn told(&self, lines: u64) -> Vec<u8> {
        let timestamp = timestamp(SystemTime::now());
        let message = "lines of the log were dropped: they came faster than stderr took them";
        match self.format {
            LogFormat::Text => format!("{timestamp}  WARN carrel: {lines} {message}\n"),
            LogFormat::Json => {
                let fields = json!({"message": message, "lines": lines});
                let line = json!({"timestamp": timestamp, "level": "WARN", "fields": fields, "target": "carrel"});
                format!("{line}\n")
            }
        }
        .into_bytes()
    }
}

impl QueueState {
    /// Takes a line, if there is room.
    fn take(&mut self, line: &[u8], of_guest: bool) -> bool {
        let more = line.len() + LINE;
        let most = if of_guest { SIZE - HOSTS } else { SIZE };
        if self.bytes + more > most {
            return false;
        }
        if let (true, Some(charge)) = (of_guest, &mut self.charge) {
            // A guest's line is not worth the memory that others need.
            match charge.grow(more) {
                Ok(()) => self.bytes += more,
                Err(_) => return false,
            }
            self.lines.push_back(line.into());
            return true;
        }
        self.put(line);
        true
    }

    fn put(&mut self, line: &[u8]) {
        self.set(self.bytes + line.len() + LINE);
        self.lines.push_back(line.into());
    }

    fn set(&mut self, bytes: usize) {
        self.bytes = bytes;
        if let Some(charge) = &mut self.charge {
            charge.set(bytes);
        }
    }
}

/// A line of the log, which is written in one piece.
pub(super) struct Line<'a> {
    queue: &'a LogShared,
    of_guest: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.add(line, self.of_guest);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: &self.0, of_guest: false }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { queue: &self.0, of_guest: meta.target() == "guest" }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Takes a line when it is told to, and gives it.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<String>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap();
            self.1.send(String::from_utf8(line.to_vec()).unwrap()).unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_waits_is_bounded_counts_and_what_is_dropped_is_told_where_it_is_missing() {
        let (queue, memory) = (LogQueue::new(LogFormat::Text), Memory::new(64 << 20));
        queue.count(&memory);
        let (go, gone) = mpsc::channel();
        let (sent, came) = mpsc::channel();
        queue.write_to(Slow(gone, sent)).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            queue.0.add(&line, true);
        }
        assert_eq!(memory.used(), 3 * (line.len() + LINE), "guests leave some to the host");
        queue.0.add(b"of the host", false);
        assert!(memory.used() <= SIZE);
        for _ in 0..5 {
            go.send(()).unwrap();
        }
        let lines: Vec<_> = (0..5).map(|_| came.recv().unwrap()).collect();
        assert!(lines[..3].iter().all(|line| line.len() == 1 << 20));
        assert!(
            lines[3]
                .ends_with("WARN carrel: 7 lines of the log were dropped: they came faster than stderr took them\n")
        );
        assert_eq!(lines[4], "of the host");
        queue.end();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn where_there_is_no_memory_a_guests_line_is_dropped_and_the_hosts_is_not() {
        let (queue, memory) = (LogQueue::new(LogFormat::Json), Memory::new(100));
        queue.count(&memory);
        queue.0.add(&[b'x'; 100], true);
        queue.0.add(b"of the host", false);
        let lines = std::mem::take(&mut queue.0.lock().lines);
        assert!(lines.len() == 2 && String::from_utf8_lossy(&lines[0]).contains(r#""lines":1"#), "{lines:?}");
        assert_eq!(&*lines[1], b"of the host");
    }
}
