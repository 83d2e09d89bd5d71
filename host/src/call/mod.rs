//! 3. A call: one object, from its admission to its bill.
//!
//! # What must always hold
//!
//! * A call is a transaction over all the instances that it touches. If it fails in any way, it never happened: see
//!   `transaction`.
//! * A call has one deadline, from its arrival on: for its input to come, its turn, a place among the live sessions,
//!   memory, the slow lane, and its run. Time spent waiting is not left for running.
//! * All that a call has done by its end is in its [`Answer`], whoever waits for that. A call whose caller went away
//!   ends in the same way, without one.
//! * A call holds its session, and no session holds a call.
//!
//! # Layout
//!
//! * `admission`: what a call is granted before it runs, step by step; `not_admitted`: why it is not; `input`: what it
//!   is given, while that comes. `outside`: the run of a call from outside, and its end, which `to_the_end` sees to if its
//!   caller went away and it cannot be undone. `outcome`: its answer.
//! * `run`: one function's run in a call. `transaction`: what it changes, and how that is undone, back to the `prior`
//!   states; the call's `effects` so far.
//! * `object`: [`Call`], with the `services` that the instances which run in it ask for, sibling calls among them.

mod admission;
mod effects;
mod input;
mod not_admitted;
mod object;
mod outcome;
mod outside;
mod prior;
mod run;
mod services;
#[cfg(test)]
mod tests;
mod to_the_end;
mod transaction;

pub(crate) use admission::Admission;
pub(crate) use input::INPUT;
pub(crate) use not_admitted::NotAdmitted;
pub(crate) use object::Call;
pub(crate) use outcome::{Answer, Failure};
