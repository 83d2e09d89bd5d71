//! The `sessions` settings: rollback, parking and eviction.

use crate::settings::reader::{Section, boolean, count, duration};
use std::time::Duration;

/// The `sessions` settings: rollback, parking and eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// True if a failed call changes nothing. If false, the instances that it touched are dropped.
    pub rollback: bool,
    /// The idle time after which a session is parked: its instances are freed, and a snapshot of each is kept.
    /// `None`: sessions are never parked.
    pub park_after: Option<Duration>,
    /// Sessions that may be parked at once.
    pub max_parked: usize,
    /// True if the longest idle sessions are dropped when there is no room for others and none can be parked.
    pub drop_longest_idle: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rollback: true,
            park_after: Some(Duration::from_secs(60)),
            max_parked: 1_000_000,
            drop_longest_idle: false,
        }
    }
}

impl Policy {
    /// Sessions that may exist besides the live ones: none if they are never parked.
    pub(super) fn parked_at_most(&self) -> usize {
        if self.park_after.is_some() { self.max_parked } else { 0 }
    }

    /// Returns true if idle sessions can make room for others, by being parked or dropped.
    pub(crate) fn makes_room(&self) -> bool {
        self.park_after.is_some() || self.drop_longest_idle
    }

    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let millisecond = duration(Duration::from_millis(1));
        let policy = Self {
            rollback: section.read("rollback", default.rollback, boolean),
            park_after: section.read("park_after", default.park_after, |value| match value {
                serde_json::Value::Bool(false) => Ok(None),
                serde_json::Value::String(off) if off == "off" => Ok(None),
                value => millisecond(value).map(Some).map_err(|why| format!("{why}, or `off`")),
            }),
            max_parked: section.read("max_parked", default.max_parked as u64, count(0, 10_000_000)) as usize,
            drop_longest_idle: section.read("drop_longest_idle", default.drop_longest_idle, boolean),
        };
        section.finish();
        policy
    }
}
