//! A call is a transaction over all the instances that it touches.
//!
//! Before a function runs, what it holds is kept: a copy of its pages, or the snapshot that it was woken from. If it
//! fails, however it fails, it becomes what was kept, and so does every function that it has called, and those that
//! these have called. A sibling that fails while its caller goes on is undone alone. What was kept goes at the end of
//! the call from outside.
//!
//! A function that is undone becomes a snapshot: its store is of no use after a trap, and making another one can wait
//! until it is needed.

use super::{Session, Slot};
use crate::instance::{Image, Instance, Saved, Snapshot, Stop};
use std::sync::Arc;

/// Stops of one call that are remembered: a function may let others fail as often as its fuel lasts.
const STOPS: usize = 64;

/// What a function held before it ran.
pub(super) enum Before {
    /// Nothing: there was no instance.
    Nothing,
    /// It was parked.
    Parked(Snapshot),
    /// It had an instance.
    Saved(Saved),
    /// It had an instance that cannot be made again: what it holds is gone if it fails.
    Lost,
}

/// A function that has run, and what it held before it did.
pub(super) struct Entry {
    position: usize,
    before: Before,
}

/// A function that runs. Its slot is taken for as long as this lives; dropping it undoes what it did.
pub(crate) struct Frame {
    session: Arc<Session>,
    position: usize,
    before: Before,
    /// Where the entries of the functions that it has called begin, in the session's list.
    from: usize,
    /// Where those of its caller's begin.
    callers: usize,
    ended: bool,
}

/// A function's slot, taken for a call, and the instance that was in it.
pub(crate) struct Taken {
    pub(super) frame: Frame,
    pub(super) instance: Option<Box<Instance>>,
}

impl Session {
    /// Takes a function's slot; `None` if it is taken already. `callers` is the caller's [`Frame::from`], or 0 for a
    /// call from outside.
    pub(crate) fn take(self: &Arc<Self>, position: usize, callers: usize) -> Option<Taken> {
        let was = {
            let mut slot = self.slot(position);
            match *slot {
                Slot::Running => return None,
                _ => std::mem::replace(&mut *slot, Slot::Running),
            }
        };
        let (instance, before) = match was {
            Slot::Idle(mut instance) => {
                let saved = self.undone_by(position).and_then(|_| instance.save());
                (Some(instance), saved.map_or(Before::Lost, Before::Saved))
            }
            Slot::Parked(snapshot) => (None, Before::Parked(snapshot)),
            Slot::Empty | Slot::Running => (None, Before::Nothing),
        };
        let from = {
            let mut current = self.current();
            current.loses |= matches!(before, Before::Lost);
            current.functions += 1;
            current.undo.len()
        };
        let frame = Frame { session: self.clone(), position, before, from, callers, ended: false };
        Some(Taken { frame, instance })
    }

    /// What a function's instances begin with, if its calls can be undone.
    fn undone_by(&self, position: usize) -> Option<&Image> {
        self.catalog().functions()[position].image().filter(|_| self.shared.policy.rollback)
    }

    /// Makes a function what it was before.
    fn undo(&self, Entry { position, before }: Entry) {
        let was = match before {
            Before::Nothing => Slot::Empty,
            Before::Parked(snapshot) => Slot::Parked(snapshot),
            Before::Saved(saved) => match self.catalog().functions()[position].image() {
                Some(image) => Slot::Parked(saved.snapshot(image, self.memory())),
                None => Slot::Empty,
            },
            Before::Lost => {
                let mut current = self.current();
                if !current.lost.contains(&position) {
                    current.lost.push(position);
                }
                Slot::Empty
            }
        };
        let undone = std::mem::replace(&mut *self.slot(position), was);
        // Dropped outside of the slot's lock.
        drop(undone);
    }
}

impl Frame {
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Where the entries of the functions that it calls begin.
    pub(super) fn from(&self) -> usize {
        self.from
    }

    /// It was parked, and has an instance again. Without rollback that is what is lost if it fails.
    pub(super) fn woken(&mut self) {
        if self.session.undone_by(self.position).is_none() && matches!(self.before, Before::Parked(_)) {
            self.before = Before::Lost;
            self.session.current().loses = true;
        }
    }

    /// What it has to be woken from, if it is parked.
    pub(super) fn parked(&self) -> Option<&Snapshot> {
        match &self.before {
            Before::Parked(snapshot) => Some(snapshot),
            _ => None,
        }
    }

    /// It ended well. Its instance is put back, and what it held before is kept for its caller's sake.
    pub(super) fn commit(mut self, mut instance: Box<Instance>) {
        self.ended = true;
        let (session, position) = (&self.session, self.position);
        if let Some(image) = session.undone_by(position) {
            instance.changed(image);
        }
        *session.slot(position) = Slot::Idle(instance);
        let mut current = session.current();
        let before = std::mem::replace(&mut self.before, Before::Nothing);
        current.undo.push(Entry { position, before });
        // The caller goes back to what there was before its first call of a function: of several entries of one, the
        // first one counts. So there are never more of them than functions, for each caller.
        let mut index = self.from;
        while index < current.undo.len() {
            let position = current.undo[index].position;
            if current.undo[self.callers..index].iter().any(|entry| entry.position == position) {
                current.undo.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// It was stopped.
    pub(super) fn stopped(self, stop: &Stop) {
        self.session.account().stopped();
        self.session.tenant().metrics.stopped(stop.kind.code());
        let mut current = self.session.current();
        if current.stops.len() < STOPS {
            current.stops.push(stop.clone());
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let entries = self.session.current().undo.split_off(self.from);
        for entry in entries.into_iter().rev() {
            self.session.undo(entry);
        }
        let before = std::mem::replace(&mut self.before, Before::Nothing);
        self.session.undo(Entry { position: self.position, before });
    }
}
