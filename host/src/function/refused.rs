//! A refusal of a guest.

/// The reason why a component is no guest, and a hint that helps.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: String,
    pub(super) hint: Option<String>,
}

impl Refused {
    pub(super) fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: Some(hint.into()) }
    }
}
