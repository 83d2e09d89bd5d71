//! The stops of siblings that a function was told of.

use super::Stop;
use std::sync::Arc;

/// The most stops of one run that are remembered: a function may let others fail as often as its fuel lasts.
const MOST: usize = 64;

/// The stops that a function was told of in its run. No other function can pass these on, nor can it in another run.
#[derive(Clone, Default)]
pub(super) struct StoppedSiblings {
    /// The newest ones of those that differ, each with its number. The last one is the newest.
    newest: Vec<(u64, Arc<Stop>)>,
    /// True if the newest sibling call ended with the newest stop.
    is_last: bool,
    passed_on: Option<Arc<Stop>>,
}

impl StoppedSiblings {
    /// Notes a new sibling call, which has not been stopped so far.
    pub(super) fn called(&mut self) {
        self.is_last = false;
    }

    /// Remembers a stop. One that is equal to an earlier one has that one's number; a new one has a number that no stop
    /// of another run has, for guests may keep numbers.
    pub(super) fn add(&mut self, stop: Stop) {
        let known = self.newest.iter().position(|(_, it)| **it == stop);
        let entry = match known {
            Some(known) => self.newest.remove(known),
            None => (rand::random(), Arc::new(stop)),
        };
        if self.newest.len() == MOST {
            self.newest.remove(0);
        }
        self.newest.push(entry);
        self.is_last = true;
    }

    /// The stop that the newest sibling call ended with, and its number.
    pub(super) fn last(&self) -> Option<(u64, &Stop)> {
        let (number, stop) = self.newest.last().filter(|_| self.is_last)?;
        Some((*number, stop))
    }

    /// Passes a stop on, by its number; false if there is none.
    pub(super) fn pass_on(&mut self, number: u64) -> bool {
        let known = self.newest.iter().rev().find(|(it, _)| *it == number);
        if let Some((_, stop)) = known {
            self.passed_on = Some(stop.clone());
        }
        known.is_some()
    }

    pub(super) fn passed_on(&self) -> Option<&Stop> {
        self.passed_on.as_deref()
    }
}
