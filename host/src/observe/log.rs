//! The host's log, to stderr.

use super::{format::LogFormat, queue::LogQueue};
use crate::limits::memory::Memory;
use std::{io::IsTerminal, sync::Arc};
use tracing_subscriber::{EnvFilter, fmt, fmt::writer::BoxMakeWriter};

/// The thread that waits for stderr to take a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPace {
    /// The thread that logs: lines and the output come in the order in which they were written.
    Wait,
    /// A separate thread. If lines come faster than stderr takes them, some are dropped, which is reported: nothing
    /// that logs ever waits, whatever stderr is.
    Drop,
}

/// The log's writer. Dropping it writes the remaining lines.
#[must_use]
pub struct Log(Option<LogQueue>);

impl Log {
    /// Counts lines that wait to be written as part of a host's memory.
    pub(crate) fn count(&self, memory: &Arc<Memory>) {
        if let Some(queue) = &self.0 {
            queue.count(memory);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.end();
        }
    }
}

/// Sets the log up; `usual` is the filter if `RUST_LOG` is not set. A second call changes nothing.
pub fn log(format: LogFormat, pace: LogPace, usual: &str) -> Log {
    let queue = (pace == LogPace::Drop).then(|| LogQueue::new(format));
    // Without a thread whoever logs has to wait.
    let queue = queue.filter(|queue| queue.write_to(std::io::stderr()).is_ok());
    let writer = match &queue {
        Some(queue) => BoxMakeWriter::new(queue.clone()),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = fmt().with_env_filter(filter).with_writer(writer).with_ansi(std::io::stderr().is_terminal());
    // It fails only where a log is set up already.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Log(queue)
}
