//! Stops of siblings.

use alloc::string::String;
use core::fmt;

/// A sibling was stopped: it crashed, or passed a limit.
#[derive(Clone, PartialEq, Eq)]
pub struct Stop {
    /// The host's stable code, such as `fuel_exhausted` or `function_crashed`.
    pub code: String,
    /// The function that was stopped, as the configuration names it.
    pub function: String,
    /// The key of the limit that was passed, such as `limits.fuel_per_call`; none if it was no limit.
    pub setting: Option<String>,
    /// All of it in a sentence, for people.
    pub text: String,
    /// The host's number of it; `None` if it cannot be passed on.
    pub(crate) number: Option<u64>,
}

impl Stop {
    /// Makes the stop of a function, by the host's text, which begins with the code. For a native unit test:
    ///
    /// ```
    /// # use carrel_guest::Stop;
    /// let stop = Stop::of("notepad", "fuel_exhausted: function `notepad` used up its fuel");
    /// assert_eq!(stop.code, "fuel_exhausted");
    /// ```
    pub fn of(function: impl Into<String>, text: impl Into<String>) -> Self {
        let (function, text) = (function.into(), text.into());
        let code = text.split_once(':').map_or(&*text, |(code, _)| code).into();
        Self { code, function, setting: None, text, number: None }
    }
}

/// The text says all of it.
impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
