//! A guest's `carrel:function/log`, stdout and stderr: lines of the host's log, with function and user, and a budget for
//! each call.
//!
//! A guest's write never fails: output beyond the budget is dropped, and the log says so once. Control characters are
//! escaped, so that no guest can forge another line. One budget covers a whole call, whatever it calls.

use super::{
    contract::carrel::function::log::Level,
    work::{BYTE, Work},
};
use crate::limits::Limits;
use std::{
    iter,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Bytes of a line; a longer one is cut in several.
const LINE: usize = 4096;
/// Bytes that the host's own part of a line takes.
const LINE_HEAD: usize = 128;
/// A spent budget, once the log has said so.
const SPENT: usize = usize::MAX;

/// The lines' function and user, and the budget for more.
#[derive(Debug)]
pub(super) struct GuestLog {
    function: Arc<str>,
    user: String,
    work: Arc<Work>,
    state: Mutex<LineBuffer>,
}

#[derive(Debug, Default)]
struct LineBuffer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Bytes that the call that runs may still write, in all of its instances; `None` between calls.
    budget: Option<Arc<AtomicUsize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogStream {
    Stdout,
    Stderr,
}

impl GuestLog {
    pub(super) fn new(function: Arc<str>, user: String, work: Arc<Work>) -> Arc<Self> {
        Arc::new(Self { function, user, work, state: Mutex::default() })
    }

    pub(super) fn stream(self: &Arc<Self>, stream: LogStream) -> Writer {
        Writer { log: self.clone(), stream }
    }

    /// Begins a call of this instance, which may write so many bytes.
    pub(super) fn begin(&self, budget: Arc<AtomicUsize>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).budget = Some(budget);
    }

    /// Ends a call of this instance: writes the unfinished lines.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.budget = None;
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let rest = std::mem::take(state.buffer(stream));
            if !rest.is_empty() {
                self.line(stream, &rest);
            }
        }
    }

    /// Logs each line of a text, as far as the budget goes.
    pub(super) fn log(&self, level: Level, text: &str) {
        if !level.is_wanted() {
            return;
        }
        let Some(budget) = self.state.lock().unwrap_or_else(PoisonError::into_inner).budget.clone() else { return };
        for line in text.lines().flat_map(pieces) {
            let line = shown(line);
            if !pay(&budget, LINE_HEAD + line.len()) {
                self.say_dropped(&budget);
                return;
            }
            level.log(&self.function, &self.user, &line);
        }
    }

    fn write(&self, stream: LogStream, bytes: &[u8]) {
        // Dropped bytes have been copied, too.
        self.work.add(BYTE * bytes.len() as u64);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(budget) = state.budget.clone() else { return };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n').flat_map(|piece| piece.chunks(LINE)) {
            // The first piece of a line pays for the host's part of it.
            let head = if state.buffer(stream).is_empty() { LINE_HEAD } else { 0 };
            if !pay(&budget, head + piece.len()) {
                self.say_dropped(&budget);
                return;
            }
            let buffer = state.buffer(stream);
            buffer.extend_from_slice(piece);
            if buffer.ends_with(b"\n") || buffer.len() >= LINE {
                self.line(stream, buffer.strip_suffix(b"\n").unwrap_or(buffer));
                buffer.clear();
            }
        }
    }

    /// Logs once for a call that lines are dropped, whichever of its functions passes the budget first.
    fn say_dropped(&self, budget: &AtomicUsize) {
        // Nothing more of this call fits, not even shorter lines: a reader should not have to guess what is missing.
        if budget.swap(SPENT, Ordering::Relaxed) != SPENT {
            let (function, user) = (&*self.function, self.user.as_str());
            tracing::warn!(target: "guest", function, user, "the rest of this call's lines is dropped: {}", Limits::LOG_SIZE.key);
        }
    }

    fn line(&self, stream: LogStream, line: &[u8]) {
        let text = shown(&String::from_utf8_lossy(line));
        let (function, user) = (&*self.function, self.user.as_str());
        match stream {
            LogStream::Stdout => tracing::info!(target: "guest", function, user, stream = "stdout", "{text}"),
            LogStream::Stderr => tracing::warn!(target: "guest", function, user, stream = "stderr", "{text}"),
        }
    }
}

/// Takes bytes off a budget. False if there are not so many left, or if it is spent.
fn pay(budget: &AtomicUsize, bytes: usize) -> bool {
    let paid = |left: usize| left.checked_sub(bytes).filter(|_| left != SPENT);
    budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
}

/// A line, cut between two characters where it is too long; an empty one is one piece.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    iter::from_fn(move || {
        let (piece, more) = rest?.split_at(rest?.floor_char_boundary(LINE));
        rest = (!more.is_empty()).then_some(more);
        Some(piece)
    })
}

/// A line as the log has it.
fn shown(line: &str) -> String {
    line.chars().flat_map(escaped).collect()
}

impl Level {
    fn is_wanted(self) -> bool {
        match self {
            Self::Trace => tracing::enabled!(target: "guest", tracing::Level::TRACE),
            Self::Debug => tracing::enabled!(target: "guest", tracing::Level::DEBUG),
            Self::Info => tracing::enabled!(target: "guest", tracing::Level::INFO),
            Self::Warn => tracing::enabled!(target: "guest", tracing::Level::WARN),
            Self::Error => tracing::enabled!(target: "guest", tracing::Level::ERROR),
        }
    }

    fn log(self, function: &str, user: &str, text: &str) {
        match self {
            Self::Trace => tracing::trace!(target: "guest", function, user, "{text}"),
            Self::Debug => tracing::debug!(target: "guest", function, user, "{text}"),
            Self::Info => tracing::info!(target: "guest", function, user, "{text}"),
            Self::Warn => tracing::warn!(target: "guest", function, user, "{text}"),
            Self::Error => tracing::error!(target: "guest", function, user, "{text}"),
        }
    }
}

/// A character that could end a line, or show it in another order, as its escape, anything else as it is.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escape = (c.is_control() || reorders).then(|| c.escape_default());
    let plain = escape.is_none().then_some(c);
    escape.into_iter().flatten().chain(plain)
}

impl LineBuffer {
    fn buffer(&mut self, stream: LogStream) -> &mut Vec<u8> {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }
}

/// One of the two streams, as WASI has it.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    log: Arc<GuestLog>,
    stream: LogStream,
}

impl IsTerminal for Writer {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Writer {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only components of WASI 0.3 write this way, and the host has no imports for them.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}
