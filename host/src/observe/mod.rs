//! The host's `log`, to stderr, in a `format`, by way of a `queue`; and its figures (`metrics`).
//!
//! `RUST_LOG` chooses what is logged, by target: `carrel` is the host, `guest` what guests write.

mod format;
mod log;
mod metrics;
mod queue;
mod timestamp;

pub use format::LogFormat;
pub use log::{Log, LogPace, log};
pub(crate) use metrics::{CallMetrics, Metrics, OfTenant};
pub(crate) use timestamp::timestamp;
