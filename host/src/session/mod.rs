//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its
//!   caller's.
//! * An instance is taken out of its slot while it runs.
//! * A session is dropped only when nobody uses it, which is checked under the lock of the registry's shard. A
//!   session is parked only while no call has its turn.
//! * Only the registry makes and drops sessions.
//!
//! # Layout
//!
//! * [`Session`], with a `slot` for each function, its `uses`, its `queue`, in which `turn` waits, and its `account`.
//!   [`Shared`]: the parts that all sessions share; [`Tenant`]: those of one tenant's.
//! * [`Registry`]: the sessions that exist, `locked` a shard at a time; [`Handle`] keeps one in use.
//! * `in_flight`: calls that wait or run, counted. `places`: those of parked sessions.
//! * `eviction`: room made of sessions that nobody uses.
//! * `tidy`: work left from a call after its answer, and `tidying` the sessions that have some. `pace`: the speed of
//!   such background work.
//! * [`Policy`]: the `sessions` settings.

mod account;
mod eviction;
mod in_flight;
mod live;
mod locked;
mod pace;
mod places;
mod policy;
mod queue;
mod registry;
mod shared;
mod slot;
mod tenant;
mod tidy;
mod tidying;
mod turn;
mod uses;

pub(crate) use account::Outcome;
pub(crate) use eviction::{Pressure, Room, Scope, upkeep};
pub use live::Session;
pub use policy::Policy;
pub(crate) use registry::NotTaken;
pub use registry::{Handle, Registry, Seen, Visit, Walk};
pub use shared::Shared;
pub(crate) use slot::Slot;
pub use tenant::Tenant;
pub(crate) use tidy::Leftovers;
pub(crate) use tidying::Tidying;
pub(crate) use turn::{Turn, waited_too_long};
