//! Memory that the host holds for callers, and counts: their connections, and answers until they are taken. The bodies
//! that they send are counted by `call`.
//!
//! A connection is charged to the host. Bytes sent on it are charged to the tenant as soon as that is known, and to
//! the user once the user has a session.

use crate::{
    call::INPUT,
    limits::memory::{Charge, Memory},
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

/// Bytes that a connection takes besides what is read from it: its task, its state, and the library's first buffers.
pub(super) const CONNECTION: usize = 16 << 10;

/// A body whose bytes are all there, charged to an account until they are sent.
pub(super) fn held(bytes: impl Into<Bytes>, charge: Charge) -> body::Body {
    body::Body::from(charged(bytes.into(), charge))
}

/// An answer, of which each byte is charged to an account until it is sent. The charge at hand is for the first bytes.
pub(super) fn counted(answer: Response<body::Body>, charge: Charge) -> Response<body::Body> {
    let memory = charge.of().clone();
    answer.map(|body| body::Body::new(CountedBody { body, memory, charge: Some(charge) }))
}

struct CountedBody {
    body: body::Body,
    memory: Arc<Memory>,
    /// None once it is given to bytes.
    charge: Option<Charge>,
}

/// Bytes with their charge.
struct ChargedBytes {
    bytes: Bytes,
    _charge: Charge,
}

/// Bytes that keep a charge of at least their size.
fn charged(bytes: Bytes, mut charge: Charge) -> Bytes {
    charge.set(charge.bytes().min(INPUT).max(bytes.len()));
    Bytes::from_owner(ChargedBytes { bytes, _charge: charge })
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for CountedBody {
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
