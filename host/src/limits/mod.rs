//! Limits: what a call, an instance, a session and the host may use.
//!
//! Each limit is one line of a table, is enforced in one place, and is attacked by `prove`, but for those that a test of
//! it names. The reader, the start's listing and the errors come of that line; the documents are tested against it. A key
//! that a tenant's section leaves out is as in `limits`.
//!
//! # Layout
//!
//! * [`Limit`]: what is known of one, and [`Reached`]: a caller or a guest is stopped by it. [`Limits`]: the `table` of
//!   keys; [`Quota`]: those of each user and each tenant. `levels`: all of them in one list.
//! * `allowance`: the fuel and time left to a call; `bill`: what it has used. `within`: a deadline.
//! * `budget`, of token `bucket`s: what is left of a rate. `memory` and `descriptors`: the accounts of both, by host,
//!   tenant and user; `machine`: how much of both this process has.

mod allowance;
mod bill;
mod bucket;
mod budget;
mod descriptors;
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
pub(crate) use descriptors::{Descriptor, Descriptors};
pub use levels::all;
pub use limit::{Amount, Limit, Per, Rate, Reached, Rejection};
pub use machine::raise_descriptors;
pub use quota::{Level, Quota};
pub use table::Limits;
pub(crate) use within::within;
