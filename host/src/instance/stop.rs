//! Why a guest was stopped: it crashed, or passed a limit.

use crate::{
    identity::User,
    limits::{Level, Limit, Limits, Reached, Rejection, memory::Full},
};
use std::sync::Arc;

/// A guest was stopped: its store is of no use any more, and what it did is undone if that can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: function `{function}` {kind}", kind.code())]
pub struct Stop {
    /// The function, as the configuration names it.
    pub function: Arc<str>,
    /// Why.
    pub kind: StopKind,
}

/// Why a guest was stopped. The text is for callers and authors, and says nothing of the host's inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopKind {
    /// A trap, an abort, or an exit.
    #[error("crashed: {0}")]
    Crashed(String),
    /// A limit is reached.
    #[error(transparent)]
    Reached(#[from] Reached),
    /// The guest refuses its configuration, which it had taken when the host started.
    #[error("does not take its configuration: {0}")]
    Unconfigurable(String),
    /// The snapshot of the parked instance cannot be used.
    #[error("cannot be woken: its snapshot for the user {user} cannot be used: {why}")]
    SnapshotBroken {
        /// The instance's user.
        user: User,
        why: String,
    },
    /// The memory of the user, the tenant or the host is used up.
    #[error("needed memory, and all {} bytes that `{}` allows are in use", .0.limit, .0.level.memory().key)]
    Full(Full),
    /// The host has no room for another instance.
    #[error("cannot be started: the host has no memory left for another instance")]
    HostFull,
}

impl From<Full> for StopKind {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl StopKind {
    /// The call used its fuel up, or a sibling the fuel that its caller left to it.
    pub(super) fn out_of_fuel(limits: &Limits) -> Self {
        let (key, most) = (Limits::FUEL_PER_CALL.key, limits.fuel_per_call);
        let why = format!("used up its fuel; `{key}` allows {most} units to a call and all that it calls");
        Limits::FUEL_PER_CALL.reached_in_words(why).into()
    }

    /// The call took too long.
    pub(super) fn too_late() -> Self {
        Limits::DEADLINE.reached_in_words(format!("ran longer than `{}` allows", Limits::DEADLINE.key)).into()
    }

    /// The guest needed so many bytes of memory in all.
    pub(super) fn out_of_memory(needed: usize, most: usize) -> Self {
        let key = Limits::MEMORY_PER_INSTANCE.key;
        Limits::MEMORY_PER_INSTANCE
            .reached_in_words(format!("needed {needed} bytes of memory, and `{key}` allows {most}"))
            .into()
    }

    /// The output, or all that was emitted, has so many bytes.
    pub(super) fn too_much_output(size: usize, most: usize) -> Self {
        let key = Limits::OUTPUT_SIZE.key;
        Limits::OUTPUT_SIZE.reached_in_words(format!("gave {size} bytes of output, and `{key}` allows {most}")).into()
    }

    /// The limit that is reached. `None`: it is another reason.
    pub fn limit(&self) -> Option<&'static Limit> {
        match self {
            Self::Crashed(_) | Self::Unconfigurable(_) | Self::SnapshotBroken { .. } | Self::HostFull => None,
            Self::Reached(reached) => Some(reached.limit),
            Self::Full(full) => Some(full.level.memory()),
        }
    }

    /// The stable code, which callers may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Crashed(_) => "function_crashed",
            Self::Unconfigurable(_) => "function_failed",
            Self::SnapshotBroken { .. } => "snapshot_broken",
            Self::Reached(_) | Self::Full(_) | Self::HostFull => self.rejection().map_or("internal", |it| it.code),
        }
    }

    /// The answer to a caller, where a limit or the lack of memory is the reason.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        let limit = if *self == Self::HostFull { Some(Limits::MEMORY) } else { self.limit() };
        limit.and_then(|limit| limit.rejection)
    }

    /// The level that has no room left, and its limit in bytes; `None` for any other reason.
    pub(crate) fn full(&self) -> Option<Full> {
        match *self {
            Self::HostFull => Some(Full { level: Level::Host, limit: usize::MAX }),
            Self::Full(full) => Some(full),
            _ => None,
        }
    }
}
