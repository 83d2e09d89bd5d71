//! What the host says of itself: its log, to stderr, and its figures (`metrics`).
//!
//! `RUST_LOG` chooses what is logged, by target: `carrel` is the host, `guest` what guests write.

mod metrics;

pub(crate) use metrics::{CallMetrics, Metrics};

use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt, fmt::writer::BoxMakeWriter};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

/// Who waits for stderr to take a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Who logs: lines and the output come in the order in which they were written.
    Wait,
    /// A thread of its own. If lines come faster than stderr takes them, some are dropped: nothing that logs ever waits,
    /// whatever stderr is.
    Drop,
}

/// What writes the log. When it is dropped, what is left is written.
#[must_use]
pub struct Log(#[allow(dead_code)] Option<WorkerGuard>);

/// Sets the log up; `usual` is what is logged where `RUST_LOG` does not say. A second call changes nothing.
pub fn log(format: LogFormat, pace: Pace, usual: &str) -> Log {
    let (writer, guard) = match pace {
        Pace::Wait => (BoxMakeWriter::new(std::io::stderr), None),
        Pace::Drop => {
            let (writer, guard) = NonBlockingBuilder::default().thread_name("carrel-log").finish(std::io::stderr());
            (BoxMakeWriter::new(writer), Some(guard))
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = fmt().with_env_filter(filter).with_writer(writer).with_ansi(std::io::stderr().is_terminal());
    // It fails only where a log is set up already.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Log(guard)
}
