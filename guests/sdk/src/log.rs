//! Lines of the host's log.

/// The weight of a line of the log. The operator says which levels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Each step of the code.
    Trace,
    /// Details that help to find a fault.
    Debug,
    /// News of ordinary work.
    Info,
    /// A sign that something may be wrong.
    Warn,
    /// A fault that somebody has to look at.
    Error,
}

/// Writes a text to the host's log, with the function's name and the user's id; each of its lines is a line there. In a
/// native unit test it goes to stderr. [`log!`](crate::log!) takes a format in its place.
///
/// Unlike `println!` it takes no stream of the host's, and works without the standard library.
pub fn log(level: Level, text: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::log::write(level.into(), text);
    #[cfg(not(target_family = "wasm"))]
    for line in text.lines() {
        eprintln!("{level:?}: {line}");
    }
}

/// Writes a line to the host's log, with a [`Level`](crate::Level): `log!(Level::Info, "{} notes", notes.len())`.
#[macro_export]
macro_rules! log {
    ($level:expr, $($text:tt)+) => {
        $crate::log($level, &$crate::format!($($text)+))
    };
}

#[cfg(target_family = "wasm")]
impl From<Level> for crate::bindings::log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
