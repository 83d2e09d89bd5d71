//! The parameters of making an instance.

use super::{Blueprint, Context, Phase, Running, Services, memory::MemoryLimit, watch::Watch};
use crate::{
    limits::{Allowance, Limits, memory::Charge},
    state::Image,
};
use std::sync::{Arc, atomic::AtomicUsize};

/// An instance that is to be made: for whom, and within what.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) blueprint: Blueprint<'a>,
    /// The memories that instances begin with, if these can be restored.
    pub(crate) image: Option<&'a Image>,
    /// True if the instance's calls are to be undone when they fail.
    pub(crate) undone: bool,
    pub(crate) services: &'a Arc<dyn Services>,
    pub(crate) limits: &'a Limits,
    pub(crate) allowance: Allowance,
    pub(crate) depth: usize,
}

impl Making<'_> {
    /// A store's data. `charge` covers the memories that the store is to be given, if it is given any.
    pub(super) fn context(
        &self,
        budget: Option<Arc<AtomicUsize>>,
        watch: Option<Watch>,
        charge: Option<Charge>,
    ) -> Context {
        let user = self.services.user();
        let limit = self.limits.memory_per_instance;
        let memory = match charge {
            Some(charge) => MemoryLimit::of(limit, charge),
            None => MemoryLimit::new(limit, self.services.memory()),
        };
        Context::new(self.blueprint.name.clone(), user, memory, budget, self.blueprint.grants.clone(), watch)
    }

    pub(super) fn running(&self, phase: Phase) -> Running {
        let (services, permit) = (self.services.clone(), self.services.permit().clone());
        Running::new(Some(services), permit, phase, self.allowance, self.depth)
    }
}
