//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its
//!   caller's.
//! * An instance is taken out of its slot while it runs. If it ends well it is put back; whatever else happens, a
//!   crash, a limit, a caller who goes away, its slot becomes what it was before: a failed call never happened.
//! * A session is dropped only when nobody uses it, which is checked under the lock of the registry's shard. A
//!   session is parked only while no call has its turn.
//! * A call has one deadline, from its arrival on: for its turn, a place among the live sessions, memory, the slow
//!   lane, and its run. Time spent waiting is not left for running.
//! * Nothing outside of this folder knows which sessions exist.
//!
//! # Layout
//!
//! * [`Session`], with a `slot` for each function, its `uses`, its `queue`, in which `turn` waits, and its `account`.
//!   [`Shared`]: the parts that all sessions share; [`Tenant`]: those of one tenant's.
//! * `call`: a call from outside, and a call of one function. `current`: its progress. `undo`: its rollback, to the
//!   `prior` states. `services`: what the session's instances ask for, sibling calls among it. `tidy`: work left after
//!   the answer, and `tidying` those who have some. `to_the_end`: a call whose caller went away, and that cannot be
//!   undone. [`Refusal`]: why a call is not let in.
//! * [`Registry`]: the sessions that exist; [`Handle`] keeps one in use. `sweep`: drops idle ones. `park`: replaces
//!   idle ones' instances by snapshots. `pressure`: wishes for room, and the room freed for them; `evict`: makes
//!   room.
//! * `pace`: the speed of background work. [`Policy`]: the `sessions` settings.

mod account;
mod call;
mod current;
mod evict;
mod live;
mod pace;
mod park;
mod policy;
mod pressure;
mod prior;
mod queue;
mod refusal;
mod registry;
mod services;
mod shared;
mod slot;
mod sweep;
mod tenant;
mod tidy;
mod tidying;
mod to_the_end;
mod turn;
mod undo;
mod uses;

pub use account::Account;
pub use call::{Answer, Failure};
pub use live::{Holds, Session};
pub(crate) use park::park;
pub use policy::Policy;
pub(crate) use pressure::Pressure;
pub(crate) use refusal::calls_of;
pub use refusal::{Refusal, TooManySessions};
pub(crate) use registry::NotTaken;
pub use registry::{Handle, Registry, Seen, Visit, Walk};
pub use shared::Shared;
pub(crate) use sweep::sweep;
pub use tenant::Tenant;
pub(crate) use tidying::Tidying;
