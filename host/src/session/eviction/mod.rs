//! Room made of sessions that nobody uses: they are parked, or dropped.
//!
//! | when | who does it | to whom |
//! |---|---|---|
//! | idle for `sessions.park_after` | `park` | each such session is parked |
//! | idle for `per_user_workflow_timeout` | `sweep` | each such session is dropped |
//! | memory or a place is missing in a scope | `evictor`, one for each scope | the longest idle of the scope are parked, until there is room |
//! | as above, and none can be parked | `evictor`, where `sessions.drop_longest_idle` says so | the longest idle of the scope are dropped |
//!
//! `upkeep` runs all of it. `pressure` is where calls that need room and evictors meet; it knows no session.

mod evictor;
mod park;
mod pressure;
mod sweep;
mod upkeep;

pub(crate) use pressure::{Pressure, Room, Scope};
pub(crate) use upkeep::upkeep;
