//! Errors of identifying a caller.

/// The reason why a request has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request has no credential; the text lists those that it could have.
    #[error("this request names no user: {0}")]
    Required(&'static str),
    /// The request's credential cannot be read, or is not right.
    #[error("the credential is not taken: {0}")]
    Invalid(&'static str),
    /// The request's credential cannot be verified at the moment.
    #[error("the credential cannot be verified now: {0}")]
    Unavailable(&'static str),
}
