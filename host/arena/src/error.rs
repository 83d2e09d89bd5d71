//! The error of a memory or stack that cannot be made.

/// The beginning of [`Error::Exhausted`]'s text.
const EXHAUSTED: &str = "the arena is exhausted";

/// A memory or stack cannot be made, or cannot grow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All slots of its size, and of larger ones, are in use. It can be tried again when one was given back.
    #[error("{EXHAUSTED}: {0}")]
    Exhausted(String),
    /// No slot is as large.
    #[error("a memory of {0} bytes is larger than the largest slot")]
    TooLarge(usize),
}

impl Error {
    /// Returns true if an error of wasmtime's says that there is no slot.
    ///
    /// wasmtime hands on the value where a stack is made, and only its text where a memory is.
    pub fn is_exhausted(error: &wasmtime::Error) -> bool {
        error.chain().any(|cause| match cause.downcast_ref() {
            Some(Self::Exhausted(_)) => true,
            Some(Self::TooLarge(_)) => false,
            None => cause.to_string().starts_with(EXHAUSTED),
        })
    }
}
