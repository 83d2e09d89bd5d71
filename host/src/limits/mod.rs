//! Limits: what a call, an instance, a session and the host may use.
//!
//! Each limit is one key of `limits` and one line of a table, is enforced in one place, and is attacked by `prove`. The
//! reader, the start's listing, all errors and the documents come of that line. A key that a tenant's section leaves out
//! defaults to that of `limits`.
//!
//! # Layout
//!
//! * [`Limit`]: one of them, and [`Reached`]: that it stops a caller. [`Limits`]: the `table` of keys; `levels`: those of
//!   users and tenants. [`Quota`]: the rates of a user or a tenant, and what each may hold at once.
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
mod levels;
mod limit;
mod machine;
pub(crate) mod memory;
mod quota;
mod table;
mod within;

pub use allowance::Allowance;
pub use bill::Bill;
pub(crate) use budget::Budget;
pub use clock::TICK;
pub(crate) use clock::{SHORT, SLOW_TICK, TICKS_UNTIL_SLOW};
pub(crate) use descriptors::{Descriptor, Descriptors};
pub(crate) use lane::{Lane, Permit};
pub use levels::{MAX_PARKED, all};
pub use limit::{Amount, Answer, Limit, Per, Rate, Reached};
pub use machine::raise_descriptors;
pub use quota::{
    Level, Quota, TENANT_CALLS, TENANT_FUEL, TENANT_MEMORY, TENANT_OPEN_FILES, TENANT_REQUESTS, TENANT_SESSIONS,
    USER_FUEL, USER_MEMORY, USER_OPEN_FILES, USER_REQUESTS,
};
pub use table::{
    BODY_SIZE, CALL_DEPTH, CALLS, CONNECTIONS, DEADLINE, FUEL_PER_CALL, GUEST_COMPILE_TIME, GUEST_FUNCTION_SIZE,
    GUEST_SIZE, LOG_SIZE, Limits, MAX_SESSIONS, MEMORY, MEMORY_PER_INSTANCE, OPEN_FILES, OUTPUT_SIZE,
    QUEUE_PER_SESSION,
};
pub(crate) use within::within;
