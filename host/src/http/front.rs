//! The way of a request on a connection before the routes see it, and of its answer after them.
//!
//! * A request must name one host, as RFC 9112 (3.2) has it.
//! * An answer to a request that was not read to its end closes the connection, and says so. A small body that is on its
//!   way is read for that, so that a connection does not end with each call that is refused.
//! * A stream of events tells, on demand, that it is still there: see [`super::wire`].

use super::{app::App, error::Error, progress::Progress};
use axum::{body, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;

/// A body of so many bytes is read even if nobody wants it, ..
const SMALL: u64 = 16 << 10;
/// .. within this time.
const SMALL_WITHIN: Duration = Duration::from_millis(500);
/// A comment, which readers of events skip.
const COMMENT: &[u8] = b":\n\n";

/// Answers a request.
pub(super) async fn answer(
    app: &App,
    progress: &Arc<Progress>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (parts, body) = request.into_parts();
    let whole = body.is_end_stream();
    progress.begins(whole, parts.version > Version::HTTP_10);
    // Nothing was asked for, so that nothing would come.
    let waits = !whole && parts.headers.contains_key(header::EXPECT);
    let request = IncomingBody { body: Some(body), progress: progress.clone(), whole };
    let mut response = match host(&parts.headers, parts.version) {
        Ok(()) => app.answer(Request::from_parts(parts, request)).await,
        Err(error) => {
            drop(request);
            error.into_response()
        }
    };
    if let Some(body) = progress.given_up() {
        let left = body.size_hint().exact();
        let small = !waits && left.is_none_or(|left| left <= SMALL);
        if !small || !drain(body).await {
            progress.leaves_unread(left);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let streams = response.body().size_hint().exact().is_none().then(|| progress.clone());
    if streams.is_some() {
        progress.streams(true);
    }
    progress.ends();
    Ok(response.map(|body| AnswerBody { body, streams }))
}

/// Reads a small body to its end. Gives whether that is done in time, and it was small.
async fn drain(mut body: Incoming) -> bool {
    let mut rest = SMALL;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(less) = rest.checked_sub(bytes) else { return false };
            rest = less;
        }
        true
    };
    timeout(SMALL_WITHIN, reading).await.unwrap_or(false)
}

/// Looks whether a request names one host. Before HTTP/1.1 it need not name any.
fn host(headers: &HeaderMap, version: Version) -> Result<(), Error> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(Error::host_header("the header `Host` is not the name or address of a host")),
        (Some(_), Some(_)) => Err(Error::host_header("the header `Host` is there more than once")),
        (None, _) if version > Version::HTTP_10 => Err(Error::host_header("the header `Host` is missing")),
        (None, _) => Ok(()),
    }
}

/// The bytes that the name of a host may have.
const IN_NAMES: [bool; 256] = {
    let (mut table, mut byte, others) = ([false; 256], 0, b"-._~%!$&'()*+,;=");
    while byte < 256 {
        let mut other = 0;
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        while other < others.len() {
            table[byte] |= byte == others[other] as usize;
            other += 1;
        }
        byte += 1;
    }
    table
};

/// A name or an address, and perhaps a port; or nothing, as RFC 9112 (3.2) has it for targets without a host.
fn is_host(host: &[u8]) -> bool {
    let (name, rest) = match host.strip_prefix(b"[") {
        Some(address) => {
            let Some(end) = address.iter().position(|byte| *byte == b']') else { return false };
            let is_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.v".contains(byte);
            if end == 0 || !address[..end].iter().all(is_address) {
                return false;
            }
            (&b""[..], &address[end + 1..])
        }
        None => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let port = match rest {
        [] => &[],
        [b':', port @ ..] => port,
        _ => return false,
    };
    name.iter().all(|byte| IN_NAMES[usize::from(*byte)]) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// A request's body, which goes back to the connection if it is not read to its end.
struct IncomingBody {
    body: Option<Incoming>,
    progress: Arc<Progress>,
    whole: bool,
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || (polled.is_ready() && body.is_end_stream()) {
            self.whole = true;
            self.progress.body_is_whole();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        if let (false, Some(body)) = (self.whole, self.body.take()) {
            self.progress.give_up(body);
        }
    }
}

/// An answer's body.
pub(super) struct AnswerBody {
    body: body::Body,
    /// The connection of a stream.
    streams: Option<Arc<Progress>>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let asked = || self.streams.as_ref().is_some_and(|progress| progress.is_asked_in_stream());
        if polled.is_pending() && asked() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(progress) = &self.streams {
            progress.streams(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for right in ["", "x", "localhost:8000", "a.example", "127.0.0.1:80", "[::1]", "[::1]:8000", "a-b_c.d:", "%41"]
        {
            assert!(is_host(right.as_bytes()), "{right:?}");
        }
        for wrong in [
            "a b", "a/b", "user@a", "a:b", "a:80:80", "[::1", "[]", "[::1]x", "::1", "a:123456", "a?", "a\"", "\u{e9}",
            "a,b c",
        ] {
            assert!(!is_host(wrong.as_bytes()), "{wrong:?}");
        }
    }
}
