//! A call is a transaction over all the instances that it touches.
//!
//! Before a function runs, its prior state is kept: copies of the pages that are likely to change, and a log of the
//! others, or the snapshot that it was restored from. If it fails in any way, it goes back to that state, and so does
//! every function that it called, directly or not. A sibling that fails while its caller goes on is undone alone. The
//! kept state is freed at the end of the call from outside.
//!
//! A function is undone in place, at the price of what it changed. Its memories are restored, and its next call gives
//! them to a new store, since a store is unusable after a trap. The answer to a failed call does not wait for that.

use super::{
    object::Call,
    prior::{PriorState, UndoEntry},
};
use crate::{
    function::Function,
    instance::{Instance, Making, Metered, Services, Stop, StopKind},
    limits::{
        Allowance,
        memory::{self, Full},
    },
    session::Slot,
    state::{Finding, Image, Saved, Undone},
};
use std::sync::Arc;
use tokio::task::yield_now;

/// A function that is called. Its slot is taken for as long as this lives; dropping this undoes the call.
pub(super) struct Frame {
    call: Arc<Call>,
    position: usize,
    instance: Option<Box<Instance>>,
    /// The instance without its store, if its last call has failed.
    undone: Option<Box<Undone>>,
    before: PriorState,
    /// True if room was reserved for undo logs.
    ahead: bool,
    /// The index in the call's undo list of the first entry of the functions that this one called.
    undo_from: usize,
    /// The caller's [`Frame::undo_from`].
    callers_undo_from: usize,
    ended: bool,
}

impl Call {
    /// Takes a function's slot; `None` if it is taken already. `callers_undo_from` is the caller's
    /// [`Frame::undo_from`], or 0 for a call from outside.
    pub(super) fn take(self: &Arc<Self>, position: usize, callers_undo_from: usize) -> Option<Frame> {
        let was = {
            let mut slot = self.session.slot(position);
            match *slot {
                Slot::Running => return None,
                _ => std::mem::replace(&mut *slot, Slot::Running),
            }
        };
        let (instance, undone, before) = match was {
            Slot::Idle(instance) => (Some(instance), None, PriorState::Same),
            Slot::Undone(undone) => (None, Some(undone), PriorState::Same),
            Slot::Parked(snapshot) => (None, None, PriorState::Parked(snapshot)),
            Slot::Lost => {
                self.lost(position);
                (None, None, PriorState::Nothing)
            }
            Slot::Empty | Slot::Running => (None, None, PriorState::Nothing),
        };
        let undo_from = {
            let mut effects = self.effects();
            effects.tally.functions += 1;
            effects.undo.len()
        };
        Some(Frame {
            call: self.clone(),
            position,
            instance,
            undone,
            before,
            ahead: false,
            undo_from,
            callers_undo_from,
            ended: false,
        })
    }

    /// Restores a function's state `before` a call, given its slot's content `now`. If that is much work, it is only
    /// begun: see `tidy`. Returns the units of fuel for all of it.
    fn undo(&self, UndoEntry { position, before }: UndoEntry, now: Slot) -> u64 {
        let mut units = 0;
        let was = match (before, now) {
            (PriorState::Nothing, _) => Some(Slot::Empty),
            (PriorState::Same, now) => Some(now),
            (PriorState::Parked(snapshot), _) => Some(Slot::Parked(snapshot)),
            (PriorState::Saved(saved), now) => self.session.image(position).and_then(|image| {
                let (undone, taken) = match now {
                    Slot::Idle(instance) => instance.undo(saved, image)?,
                    Slot::Undone(undone) => undone.undo(saved, image)?,
                    Slot::Empty | Slot::Lost | Slot::Parked(_) | Slot::Running => return None,
                };
                units = taken;
                self.effects().untidy |= undone.is_being_undone();
                Some(Slot::Undone(undone))
            }),
            (PriorState::Lost, _) => None,
        };
        if was.is_none() {
            self.lost(position);
        }
        *self.session.slot(position) = was.unwrap_or_default();
        units
    }

    /// Notes that a function has lost its state, so that it cannot go back to an earlier one either.
    fn lost(&self, position: usize) {
        let mut effects = self.effects();
        for entry in effects.undo.iter_mut().filter(|entry| entry.position == position) {
            if let PriorState::Saved(_) = entry.before {
                entry.before = PriorState::Lost;
            }
        }
        if !effects.lost.contains(&position) {
            effects.lost.push(position);
        }
    }
}

impl Frame {
    pub(super) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    pub(super) fn function(&self) -> &Function {
        self.call.session.function(self.position)
    }

    /// Bytes of memory that the call needs to begin.
    pub(super) fn needs(&self) -> usize {
        match (&self.instance, &self.before) {
            (Some(instance), _) => {
                let image = self.call.session.undone_by(self.position);
                let logs = image.map_or(0, |image| instance.logs(image));
                instance.whole().saturating_sub(instance.charged()) + logs
            }
            (None, PriorState::Parked(snapshot)) => memory::INSTANCE + memory::STACK + snapshot.memory(),
            (None, _) => {
                memory::INSTANCE + memory::STACK + self.call.session.image(self.position).map_or(0, Image::at_first)
            }
        }
    }

    /// The index of the first undo entry of the functions that this one calls.
    pub(super) fn undo_from(&self) -> usize {
        self.undo_from
    }

    /// The instance, once there is one.
    pub(super) fn instance(&mut self) -> Option<&mut Instance> {
        self.instance.as_deref_mut()
    }

    /// Returns true if the function is parked, and no instance was made from the snapshot yet.
    pub(super) fn is_parked(&self) -> bool {
        self.instance.is_none() && matches!(self.before, PriorState::Parked(_))
    }

    /// Makes the instance: a new one, or the function's own, restored.
    pub(super) async fn make(&mut self, allowance: Allowance, depth: usize) -> Metered<()> {
        let (call, position) = (self.call.clone(), self.position);
        let services: Arc<dyn Services> = call.clone();
        let session = &call.session;
        let making = Making {
            blueprint: session.function(position).blueprint(),
            image: session.image(position),
            undone: session.undone_by(position).is_some(),
            services: &services,
            limits: session.limits(),
            allowance,
            depth,
        };
        if let Some(undone) = &mut self.undone {
            match making.complete(undone).await {
                Ok(true) => {}
                // The prior state is gone, so a new instance is made.
                Ok(false) => {
                    call.lost(position);
                    (self.undone, self.before) = (None, PriorState::Nothing);
                }
                Err(stop) => return Metered { result: Err(stop), fuel: 0 },
            }
        }
        let made = match &mut self.before {
            PriorState::Parked(snapshot) => Instance::restore(making, snapshot).await,
            _ => Instance::revive(making, &mut self.undone).await,
        };
        let result = made.result.map(|instance| {
            self.instance = Some(Box::new(instance));
            // The snapshot is not needed any more: the instance can be undone in place.
            if let PriorState::Parked(_) = self.before {
                self.before = PriorState::Same;
            }
        });
        Metered { result, fuel: made.fuel }
    }

    /// Completes the work left from the function's last call, yielding in between.
    pub(super) async fn settle(&mut self) {
        let (Some(instance), Some(image)) = (&mut self.instance, self.call.session.image(self.position)) else {
            return;
        };
        while !instance.is_settled() && instance.settle(image) {
            yield_now().await;
        }
    }

    /// Prepares the call: keeps the state that it could lose. Returns false if there is no instance to run it in.
    ///
    /// With `ahead`, also reserves room for the undo logs that the running call may need.
    ///
    /// # Errors
    ///
    /// There is no room for the memory that the call could write to, or for the state to be kept.
    pub(super) fn begin(&mut self, ahead: bool) -> Result<bool, Full> {
        let Some(instance) = &mut self.instance else { return Ok(false) };
        let image = self.call.session.undone_by(self.position);
        let same = matches!(self.before, PriorState::Same);
        let saved = instance.begin(same && image.is_some())?;
        if same {
            self.call.effects().loses |= saved.is_none();
            self.before = saved.map_or(PriorState::Lost, PriorState::Saved);
        }
        let logs = image.filter(|_| ahead && !self.ahead).map_or(0, |image| instance.logs(image));
        if logs > 0 {
            self.call.session.memory().reserve_for_undo_logs(logs)?;
            self.ahead = true;
        }
        Ok(true)
    }

    /// A stop of the function.
    pub(super) fn stop(&self, kind: StopKind) -> Stop {
        Stop { function: self.function().name.clone(), kind }
    }

    /// Commits a call that ended well: puts the instance back, and keeps the prior state in case the caller fails.
    /// Returns the units of fuel used.
    pub(super) fn commit(mut self) -> u64 {
        self.ended = true;
        let mut units = 0;
        let mut before = std::mem::replace(&mut self.before, PriorState::Nothing);
        let (session, position) = (&self.call.session, self.position);
        if let Some(mut instance) = self.instance.take() {
            instance.trim_stack(session.function(position).frames());
            if let Some(image) = session.undone_by(position) {
                let of = Finding { image, room: session.memory() };
                units = match &mut before {
                    PriorState::Saved(saved) => instance.commit(&of, saved),
                    _ => instance.commit(&of, &mut Saved::nothing(session.memory())),
                };
            } else {
                instance.rest();
            }
            self.call.effects().untidy |= !instance.is_settled();
            *session.slot(position) = Slot::Idle(instance);
        }
        let mut effects = self.call.effects();
        effects.undo.push(UndoEntry { position, before });
        // A caller that is undone goes back to the state before its first call of a function. So a later entry of the
        // same function is merged into the first one: each caller has at most one entry for each function.
        let mut index = self.undo_from;
        while index < effects.undo.len() {
            let (earlier, entry) = effects.undo.split_at_mut(index);
            let position = entry[0].position;
            let Some(first) = earlier[self.callers_undo_from..].iter_mut().find(|entry| entry.position == position)
            else {
                index += 1;
                continue;
            };
            let later = std::mem::replace(&mut entry[0].before, PriorState::Nothing);
            match (&mut first.before, later) {
                (PriorState::Saved(first), PriorState::Saved(later)) => first.add(later),
                // The instance could be restored before, and cannot be any more.
                (first @ PriorState::Saved(_), PriorState::Lost) => *first = PriorState::Lost,
                _ => {}
            }
            effects.undo.remove(index);
        }
        units
    }

    /// Returns true if the function, and each that it has called, can go back to the state before.
    pub(super) fn can_be_undone(&self) -> bool {
        let effects = self.call.effects();
        let mut before = effects.undo[self.undo_from..].iter().map(|entry| &entry.before).chain([&self.before]);
        !before.any(|before| matches!(before, PriorState::Lost))
    }

    /// Aborts a failed call: restores the state before it. Returns the units of fuel used.
    pub(super) fn abort(mut self) -> u64 {
        self.undo()
    }

    fn undo(&mut self) -> u64 {
        self.ended = true;
        let mut units = 0;
        let entries = self.call.effects().undo.split_off(self.undo_from);
        for entry in entries.into_iter().rev() {
            let now = std::mem::replace(&mut *self.call.session.slot(entry.position), Slot::Running);
            units += self.call.undo(entry, now);
        }
        let before = std::mem::replace(&mut self.before, PriorState::Nothing);
        let now = match (self.instance.take(), self.undone.take()) {
            (Some(instance), _) => Slot::Idle(instance),
            (None, Some(undone)) => Slot::Undone(undone),
            (None, None) => Slot::Empty,
        };
        units + self.call.undo(UndoEntry { position: self.position, before }, now)
    }

    /// Counts a stop of the function.
    pub(super) fn stopped(&self, stop: &Stop) {
        let session = &self.call.session;
        session.account().stopped();
        session.tenant().function_stopped(stop.kind.code());
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if !self.ended {
            let units = self.undo();
            self.call.upkeep(units);
        }
    }
}
