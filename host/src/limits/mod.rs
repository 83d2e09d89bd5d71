//! Limits: what a call, an instance, a session and the host may use.
//!
//! Each limit is one key of `limits`, enforced in one place, named by one code when it bites, and proved by a hostile
//! guest or caller in `tests/`. A key that a tenant's section leaves out defaults to that of `limits`.
//!
//! # Layout
//!
//! * [`Limits`]: the `table` of keys; [`Quota`]: the rates of a user or a tenant, and what each may hold at once.
//! * `allowance`: the fuel and time left to a call; `bill`: what it has used. `lane`: keeps calls that run long from holding the others up, in
//!   the order that `fair` schedules. `within`: a deadline.
//! * `budget`, of token `bucket`s: what is left of a rate. `memory` and `descriptors`: the accounts of both, by host,
//!   tenant and user; `machine`: how much of both this process has.

mod allowance;
mod bill;
mod bucket;
mod budget;
mod clock;
mod descriptors;
mod fair;
mod lane;
mod machine;
pub(crate) mod memory;
mod quota;
mod table;
mod within;

pub use allowance::Allowance;
pub use bill::Bill;
pub(crate) use budget::Budget;
pub use budget::Spent;
pub use clock::TICK;
pub(crate) use clock::{SHORT, SLOW_TICK, TICKS_UNTIL_SLOW};
pub(crate) use descriptors::{Descriptor, Descriptors};
pub(crate) use lane::{Lane, Permit};
pub use machine::raise_descriptors;
pub use quota::{Level, Quota, Rate};
pub use table::Limits;
pub(crate) use within::within;
