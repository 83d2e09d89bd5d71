//! The services that an instance asks for while something runs in it. The call that runs, and the session behind it,
//! give them; this room knows neither.

use super::{CallError, Emitter, Json, SiblingCall, SiblingRelay, Stop};
use crate::{
    identity::User,
    limits::{Allowance, Descriptors, Limits, memory::Memory},
    scheduler::Permit,
};
use std::sync::{Arc, atomic::AtomicUsize};

/// A function's run in a call.
pub(crate) struct Invocation {
    /// The fuel and time that it may use, or has left.
    pub(crate) allowance: Allowance,
    /// 1 for the function that was called from outside.
    pub(crate) depth: usize,
    /// The index of its siblings' first entry in the undo list.
    pub(crate) undo_from: usize,
}

/// Why a sibling could not be called.
pub(crate) enum NotCalled {
    /// By an error of the contract.
    Refused(CallError),
    /// By a limit that the caller passes: as if the sibling had been stopped.
    Stopped(Stop),
}

impl From<CallError> for NotCalled {
    fn from(error: CallError) -> Self {
        Self::Refused(error)
    }
}

/// The services for the instances that run in one call.
pub(crate) trait Services: Send + Sync {
    fn user(&self) -> User;

    /// The limits of the user's tenant.
    fn limits(&self) -> &Limits;

    /// The user's memory account, which has the room for undo logs of pages that the call writes, too.
    fn memory(&self) -> &Arc<Memory>;

    /// The descriptors that the user's guests may hold.
    fn descriptors(&self) -> &Descriptors;

    /// The user's permit to run for long.
    fn permit(&self) -> &Arc<Permit>;

    /// The bytes that the call may still log.
    fn log_budget(&self) -> &Arc<AtomicUsize>;

    /// The receiver of partial results.
    fn emitter(&self) -> &Emitter;

    /// The relay for sibling calls.
    fn relay(&self) -> &SiblingRelay;

    /// Returns true if there is such a function, and the user may call it.
    fn has_function(&self, name: &str) -> bool;

    /// Prepares a sibling's call, by the function that calls it.
    ///
    /// # Errors
    ///
    /// The sibling cannot be called: there is none of this name, it runs already, or the caller passes a limit.
    fn sibling(self: Arc<Self>, by: Invocation, name: &str, input: Json) -> Result<SiblingCall, NotCalled>;

    /// Units of fuel that the call was charged for so far.
    fn charged(&self) -> u64;

    /// Charges the call for fuel before its end.
    fn charge(&self, units: u64);

    /// Charges the session for fuel whose caller went away.
    fn abandon(&self, units: u64);

    /// Adds fuel for the host's own work to the call's bill, without taking it off the allowance.
    fn upkeep(&self, units: u64);
}

/// Fuel that was used, to be reported to a caller. If this is dropped before, the caller went away, and the session is
/// charged.
pub(crate) struct UnclaimedFuel<'a> {
    services: &'a dyn Services,
    units: u64,
}

impl<'a> UnclaimedFuel<'a> {
    pub(crate) fn new(services: &'a dyn Services, units: u64) -> Self {
        Self { services, units }
    }

    /// Adds used fuel.
    pub(crate) fn add(&mut self, units: u64) {
        self.units += units;
    }

    /// Units of fuel so far.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// Gives the fuel to the caller.
    pub(crate) fn claim(mut self) -> u64 {
        std::mem::take(&mut self.units)
    }
}

impl Drop for UnclaimedFuel<'_> {
    fn drop(&mut self) {
        if self.units > 0 {
            self.services.abandon(self.units);
        }
    }
}
