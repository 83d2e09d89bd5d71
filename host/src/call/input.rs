//! The input of a call, while it comes.

use super::not_admitted::NotAdmitted;
use crate::{
    limits::memory::{Charge, Memory},
    session::{Handle, Pressure},
};
use std::sync::Arc;
use tokio::time::Instant;

/// The least bytes that are charged for an input. The charge is kept for the answer, and is enough for most.
pub(crate) const INPUT: usize = 1 << 10;

/// An input, as far as it has come. Its bytes are charged to the tenant's memory.
pub(crate) struct IncomingInput<'a> {
    bytes: Vec<u8>,
    charge: Charge,
    /// The final number of bytes if known, else the most that there may be.
    most: usize,
    tenant: u16,
    pressure: &'a Pressure,
    /// The time by which all of it must have come.
    deadline: Instant,
}

impl<'a> IncomingInput<'a> {
    /// An input of which nothing has come.
    pub(super) fn new(
        memory: &Arc<Memory>,
        tenant: u16,
        most: usize,
        pressure: &'a Pressure,
        deadline: Instant,
    ) -> Self {
        Self { bytes: Vec::new(), charge: memory.charge(0), most, tenant, pressure, deadline }
    }

    /// Bytes that have come.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a chunk. Idle sessions are parked for it if there is no other memory.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub(crate) async fn add(&mut self, more: &[u8]) -> Result<(), NotAdmitted> {
        let (len, had) = (self.bytes.len() + more.len(), self.bytes.capacity());
        if len > had {
            // During the move, both copies exist.
            let room = (2 * had).max(INPUT).min(self.most).max(len);
            let lacking = (had + room).max(INPUT).saturating_sub(self.charge.bytes());
            self.pressure.grow(&mut self.charge, lacking, Some(self.tenant), self.deadline).await?;
            let mut larger = Vec::with_capacity(room);
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
            self.charge.shrink(self.charge.bytes() - room.max(INPUT));
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// The bytes, and their charge.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Charge) {
        (self.bytes, self.charge)
    }
}

/// Moves a charge from a tenant to one of its users, after the rest of the user's last call.
pub(super) async fn hand_over(charge: Charge, handle: &Handle) -> Result<Charge, NotAdmitted> {
    match charge.narrow(handle.session().memory()) {
        Ok(charge) => Ok(charge),
        // Boxed: mostly there is room.
        Err((_, same)) => Box::pin(hand_over_after_tidying(same, handle)).await,
    }
}

async fn hand_over_after_tidying(mut charge: Charge, handle: &Handle) -> Result<Charge, NotAdmitted> {
    let mut tidied = handle.session().tidying().watch();
    loop {
        // Only the end of that call frees memory of the user's.
        let is_being_tidied = handle.session().is_being_tidied();
        match charge.narrow(handle.session().memory()) {
            Ok(charge) => return Ok(charge),
            Err((_, same)) if is_being_tidied && tidied.another(handle.deadline()).await => charge = same,
            Err((full, _)) => return Err(full.into()),
        }
    }
}
