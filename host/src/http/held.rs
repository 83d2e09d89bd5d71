//! Memory that the host holds for callers, and counts: their connections, the bodies that they send, and answers until
//! they are taken.
//!
//! A connection is charged to the host. Bytes sent on it are charged to the tenant as soon as that is known, and to
//! the user once the user has a session.

use super::error::Error;
use crate::{
    limits::memory::{Charge, Memory},
    session::{Handle, Pressure},
};
use axum::body;
use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::Instant;

/// Bytes that a connection takes besides what is read from it: its task, its state, and the library's first buffers.
pub(super) const CONNECTION: usize = 16 << 10;
/// The least bytes that are charged for a body. The charge is kept for the answer, and is enough for most.
const BODY: usize = 1 << 10;

/// A request's body, as far as it has come.
pub(super) struct HeldBody<'a> {
    bytes: Vec<u8>,
    charge: Charge,
    /// The final number of bytes if known, else the most that there may be.
    most: usize,
    tenant: Option<u16>,
    pressure: &'a Pressure,
    /// The time by which the whole body must have come.
    deadline: Instant,
}

impl<'a> HeldBody<'a> {
    /// Makes an empty body.
    pub(super) fn new(
        memory: &Arc<Memory>,
        tenant: Option<u16>,
        most: usize,
        pressure: &'a Pressure,
        deadline: Instant,
    ) -> Self {
        Self { bytes: Vec::new(), charge: memory.charge(0), most, tenant, pressure, deadline }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a chunk. Idle sessions are parked for it if there is no other memory.
    pub(super) async fn add(&mut self, more: &[u8]) -> Result<(), Error> {
        let (len, had) = (self.bytes.len() + more.len(), self.bytes.capacity());
        if len > had {
            // During the move, both copies exist.
            let room = (2 * had).max(BODY).min(self.most).max(len);
            let lacking = (had + room).max(BODY).saturating_sub(self.charge.bytes());
            let grown = self.pressure.grow(&mut self.charge, lacking, self.tenant, self.deadline).await;
            grown.map_err(Error::no_memory)?;
            let mut larger = Vec::with_capacity(room);
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
            self.charge.shrink(self.charge.bytes() - room.max(BODY));
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// The bytes, and their charge.
    pub(super) fn into_parts(self) -> (Vec<u8>, Charge) {
        (self.bytes, self.charge)
    }
}

/// Moves a charge from a tenant to one of its users, after the rest of the user's last call.
pub(super) async fn hand_over(charge: Charge, handle: &Handle) -> Result<Charge, Error> {
    match charge.narrow(handle.session().memory()) {
        Ok(charge) => Ok(charge),
        // Boxed: mostly there is room.
        Err((_, same)) => Box::pin(hand_over_after_tidying(same, handle)).await,
    }
}

async fn hand_over_after_tidying(mut charge: Charge, handle: &Handle) -> Result<Charge, Error> {
    let mut tidied = handle.session().tidying().watch();
    loop {
        // Only the end of that call frees memory of the user's.
        let is_tidied = handle.session().is_tidied();
        match charge.narrow(handle.session().memory()) {
            Ok(charge) => return Ok(charge),
            Err((_, same)) if is_tidied && tidied.another(handle.deadline()).await => charge = same,
            Err((full, _)) => return Err(Error::no_memory(full)),
        }
    }
}

/// A body whose bytes are all there, charged to an account until they are sent.
pub(super) fn held(bytes: impl Into<Bytes>, charge: Charge) -> body::Body {
    body::Body::from(charged(bytes.into(), charge))
}

/// An answer, of which each byte is charged to an account until it is sent. The charge at hand is for the first bytes.
pub(super) fn counted(answer: Response<body::Body>, charge: Charge) -> Response<body::Body> {
    let memory = charge.of().clone();
    answer.map(|body| body::Body::new(Counted { body, memory, charge: Some(charge) }))
}

struct Counted {
    body: body::Body,
    memory: Arc<Memory>,
    /// None once it is given to bytes.
    charge: Option<Charge>,
}

/// Bytes with their charge.
struct Held {
    bytes: Bytes,
    _charge: Charge,
}

/// Bytes that keep a charge of at least their size.
fn charged(bytes: Bytes, mut charge: Charge) -> Bytes {
    charge.set(charge.bytes().min(BODY).max(bytes.len()));
    Bytes::from_owner(Held { bytes, _charge: charge })
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // The library keeps the bytes when it has done with the body, until the system takes them.
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                let charge = self.charge.take().unwrap_or_else(|| self.memory.charge(0));
                charged(bytes, charge)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
