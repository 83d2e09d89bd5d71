//! Why a guest was stopped: it crashed, or passed a limit.

use crate::{
    identity::User,
    limits::{Level, memory::Full},
};
use std::sync::Arc;

/// A guest was stopped, and its instance is gone.
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
    /// The call used its fuel up, or a sibling the fuel that its caller left to it.
    #[error("used up its fuel; `limits.fuel_per_call` allows {limit} units to a call and all that it calls")]
    FuelExhausted {
        /// Units that a whole call may use.
        limit: u64,
    },
    /// The call took too long.
    #[error("ran longer than `limits.deadline` allows")]
    DeadlineExceeded,
    /// The guest crashed after it had been refused more memory.
    #[error("needed {needed} bytes of memory, and `limits.memory_per_instance` allows {limit}")]
    MemoryExhausted {
        /// Bytes that it asked for in all.
        needed: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// The output, or all that was emitted, is too large.
    #[error("gave {size} bytes of output, and `limits.output_size` allows {limit}")]
    OutputTooLarge {
        /// Bytes that it gave, or was about to.
        size: usize,
        /// Bytes that it may give.
        limit: usize,
    },
    /// The guest refuses its configuration, which it had taken when the host started.
    #[error("does not take its configuration: {0}")]
    Unconfigurable(String),
    /// The snapshot of the parked instance cannot be used.
    #[error("cannot be woken: its snapshot for the user {user} cannot be used: {why}")]
    SnapshotBroken {
        /// The instance's user.
        user: User,
        /// Why.
        why: String,
    },
    /// The memory of the user, the tenant or the host is used up.
    #[error("needed memory, and all {limit} bytes that `{}` allows are in use", Self::memory_of(*level))]
    MemorySpent {
        /// The level of the memory.
        level: Level,
        /// Bytes that may be taken of it.
        limit: usize,
    },
    /// The host has no room for another instance.
    #[error("cannot be started: the host has no memory left for another instance")]
    HostFull,
}

impl From<Full> for StopKind {
    fn from(Full { level, limit }: Full) -> Self {
        Self::MemorySpent { level, limit }
    }
}

impl StopKind {
    /// The stable code, which callers may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Crashed(_) => "function_crashed",
            Self::FuelExhausted { .. } => "fuel_exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MemoryExhausted { .. } => "memory_exhausted",
            Self::OutputTooLarge { .. } => "output_too_large",
            Self::Unconfigurable(_) => "function_failed",
            Self::SnapshotBroken { .. } => "snapshot_broken",
            Self::MemorySpent { level: Level::User, .. } => "memory_exhausted",
            Self::MemorySpent { level: Level::Tenant, .. } => "tenant_full",
            Self::MemorySpent { level: Level::Host, .. } | Self::HostFull => "host_full",
        }
    }

    /// The configuration's key that sets the limit.
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Crashed(_) | Self::Unconfigurable(_) | Self::SnapshotBroken { .. } | Self::HostFull => None,
            Self::FuelExhausted { .. } => Some("limits.fuel_per_call"),
            Self::DeadlineExceeded => Some("limits.deadline"),
            Self::MemoryExhausted { .. } => Some("limits.memory_per_instance"),
            Self::OutputTooLarge { .. } => Some("limits.output_size"),
            Self::MemorySpent { level, .. } => Some(Self::memory_of(*level)),
        }
    }

    /// The key that says how much memory there is for all of a level.
    fn memory_of(level: Level) -> &'static str {
        match level {
            Level::User => "limits.user.memory",
            Level::Tenant => "limits.tenant.memory",
            Level::Host => "limits.memory",
        }
    }

    /// The level that has no room left, and its limit in bytes; `None` for any other reason.
    pub(crate) fn full(&self) -> Option<Full> {
        match *self {
            Self::HostFull => Some(Full { level: Level::Host, limit: usize::MAX }),
            Self::MemorySpent { level, limit } => Some(Full { level, limit }),
            _ => None,
        }
    }
}
