//! A request, as far as its answer needs it.

use std::sync::Arc;
use tokio::time::Instant;

/// The part of a request that is kept until it is answered.
#[derive(Clone)]
pub(super) struct AskedCall {
    /// The function's input.
    pub(super) input: Arc<String>,
    /// The tenant's place in the configuration.
    pub(super) tenant: u16,
    /// The time by which the answer must be there.
    pub(super) deadline: Instant,
}
