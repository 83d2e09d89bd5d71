//! A call, as an instance sees it.

use super::{Services, stopped::StoppedSiblings, work};
use crate::{limits::Allowance, scheduler::Permit};
use std::sync::Arc;
use tokio::time::Instant;

/// A call, as one of the instances that it runs in sees it.
#[derive(Clone)]
pub(crate) struct Running {
    /// `None` for a guest that is being described, before there are sessions.
    pub(crate) services: Option<Arc<dyn Services>>,
    pub(crate) permit: Arc<Permit>,
    pub(crate) phase: Phase,
    pub(crate) allowance: Allowance,
    pub(crate) began: Instant,
    /// Units that its session was charged so far.
    pub(crate) charged: u64,
    /// Fuel that was left when the clock last ticked, as far as it was told.
    pub(super) told: u64,
    /// Units that it must have used since then without telling, by the clock.
    pub(super) by_clock: u64,
    /// 1 for the function that was called from outside.
    pub(crate) depth: usize,
    /// The index of its siblings' first entry in the undo list of the call: see `call::transaction`.
    pub(crate) undo_from: usize,
    /// The stops that it was told of.
    pub(super) stops: StoppedSiblings,
}

/// The part of the contract that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Configure,
    Call,
}

impl Running {
    /// A run that has used nothing yet, and calls nobody.
    pub(super) fn new(
        services: Option<Arc<dyn Services>>,
        permit: Arc<Permit>,
        phase: Phase,
        allowance: Allowance,
        depth: usize,
    ) -> Self {
        Self {
            services,
            permit,
            phase,
            allowance,
            began: Instant::now(),
            charged: 0,
            told: 0,
            by_clock: 0,
            depth,
            undo_from: 0,
            stops: StoppedSiblings::default(),
        }
    }

    /// Units used so far, given those that are left in the store. A loop counts in a register of its own until it
    /// ends, so one that is cut off has never reported its use: the clock's estimate is added.
    pub(super) fn used(&self, left: u64) -> u64 {
        let untold = if left == self.told { self.by_clock.min(left) } else { 0 };
        self.allowance.fuel.saturating_sub(left) + untold
    }

    /// Notes a tick of the clock, with so much fuel left.
    pub(super) fn tick(&mut self, left: u64) {
        self.by_clock = if left == self.told { self.by_clock + work::TICK } else { 0 };
        self.told = left;
    }
}
