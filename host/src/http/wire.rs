//! A connection's bytes, and its caller: there, half gone, or gone.
//!
//! # A caller who has closed
//!
//! A caller who closes its sending side may have sent all that it wants to send and wait for the answer (`nc -N`, some
//! health checks), or may have gone away for good. Both send the same FIN, and the system tells no difference. So:
//!
//! | what the caller does while a request is worked on | what happens |
//! |---|---|
//! | closes its sending side, and waits | it gets the answer |
//! | goes away, and its system resets the connection | the call is given up at once |
//! | goes away with a FIN | it is asked after [`ASK`], and the call is given up as soon as its system answers |
//!
//! A caller who is gone is found out by sending something: a system resets what it gets for a connection that nobody has.
//! Before an answer this is `100 Continue`, which HTTP lets any caller of 1.1 skip, and which is the one interim answer
//! that all clients do skip. A stream of events gets a comment. A caller of HTTP/1.0 knows neither; it is waited for,
//! as long as the limits of a call allow.
//!
//! # An end that does not eat the answer
//!
//! A system that closes a connection with bytes unread resets it, and the reset overtakes the answer. After an answer
//! to a request that was not read to its end, the sending side is closed first, and what still comes is thrown away,
//! up to [`LINGER_BYTES`] and [`LINGER`], as RFC 9112 (9.6) wants it.

use super::{error::Error, held::CONNECTION, progress::Progress};
use crate::limits::memory::{Charge, Memory};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use socket2::SockRef;
use std::{
    future::poll_fn,
    io::{self, ErrorKind, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::yield_now,
    time::{Instant, interval_at, sleep, timeout},
};

/// Bytes of an answer that are put together before they are sent: the system takes them more quickly than in parts.
const TOGETHER: usize = 2 << 10;
/// The time after its FIN at which a caller is asked whether it is there, and the time between two questions. Most
/// calls have ended before: a caller that only half closed sees an interim answer with long calls alone.
const ASK: Duration = Duration::from_secs(1);
/// The question: an interim answer.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The longest time that an ended connection stays open for a caller who is still sending.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes that such a caller may send in that time.
const LINGER_BYTES: u64 = 16 << 20;
/// The bytes that are thrown away at once.
const DISCARD: usize = 8 << 10;

/// A connection in two halves: the server library reads the one and has a share of the other, so that its caller can be
/// watched and the connection be closed in order while, and after, the library has it.
pub(super) struct Wire {
    read: TokioIo<Counting>,
    socket: Arc<OwnedWriteHalf>,
    progress: Arc<Progress>,
    reworded: Option<Reworded>,
}

impl Wire {
    /// Wraps a connection that is already charged.
    pub(super) fn new(stream: TcpStream, progress: Arc<Progress>, charge: Charge) -> (Self, Arc<OwnedWriteHalf>) {
        let (read, write) = stream.into_split();
        let socket = Arc::new(write);
        let read = Counting { read, socket: socket.clone(), progress: progress.clone(), charge, seen: 0, most: 0 };
        (Self { read: TokioIo::new(read), socket: socket.clone(), progress, reworded: None }, socket)
    }

    fn write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.progress.unsent(true);
        loop {
            match write(&self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!((*self.socket).as_ref().poll_write_ready(cx))?;
                }
                Ok(bytes) => {
                    if bytes > 0 {
                        self.progress.step();
                    }
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what stands for an empty answer of the library's, and then tells it that its own was written.
    fn write_reworded(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(mut reworded) = self.reworded.take() else { return Poll::Ready(Ok(0)) };
        while reworded.written < reworded.bytes.len() {
            match self.write(cx, |socket| socket.try_write(&reworded.bytes[reworded.written..])) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(bytes)) => reworded.written += bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.reworded = Some(reworded);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(reworded.stands_for))
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.reworded.is_none() {
            self.reworded = reword(buf);
            if self.reworded.is_none() {
                return self.write(cx, |socket| socket.try_write(buf));
            }
            self.progress.leaves_unread(None);
        }
        self.write_reworded(cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.unsent(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from((*self.socket).as_ref()).shutdown(Shutdown::Write) {
            // The caller was quicker.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            [one] => self.poll_write(cx, one),
            several if several.iter().map(|buf| buf.len()).sum::<usize>() <= TOGETHER => {
                let mut together = SmallVec::<[u8; TOGETHER]>::new();
                several.iter().for_each(|buf| together.extend_from_slice(buf));
                self.write(cx, |socket| socket.try_write(&together))
            }
            several => self.write(cx, |socket| socket.try_write_vectored(several)),
        }
    }
}

/// The bytes that come from a caller, and those that the library buffers: a request's head until it is worked on, and
/// the unread part of its body. The count is the maximum over all requests of the connection, since the library keeps
/// its buffer.
struct Counting {
    read: OwnedReadHalf,
    socket: Arc<OwnedWriteHalf>,
    progress: Arc<Progress>,
    charge: Charge,
    /// Bytes that have come since a request was answered.
    seen: usize,
    /// The maximum counted so far.
    most: usize,
}

impl Counting {
    /// Counts that more may come. While a request is worked on that cannot be refused, and is no more than the library's
    /// buffer.
    fn hold(&mut self) -> bool {
        if self.seen < self.most || self.most >= BUFFER {
            return true;
        }
        let most = (self.seen + STEP).min(BUFFER);
        let more = most - self.most;
        if self.progress.is_working() {
            self.charge.set(CONNECTION + most);
        } else if self.most > 0 && self.charge.grow(more).is_err() {
            return false;
        }
        self.most = most;
        true
    }

    /// Tells the caller that there is no memory for its request.
    fn refuse(&self) -> io::Error {
        let _ = self.socket.try_write(&Error::full_at_the_door());
        self.progress.leaves_unread(None);
        ErrorKind::OutOfMemory.into()
    }
}

/// Bytes that the library reads of a caller before anybody wants them, at the most.
pub(super) const BUFFER: usize = 64 << 10;
/// Bytes of these that are counted at a time. The first are a part of [`CONNECTION`].
const STEP: usize = 8 << 10;

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.progress.is_answered() {
            self.seen = 0;
        }
        if !self.hold() {
            return Poll::Ready(Err(self.refuse()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.read).poll_read(cx, buf);
        self.seen = self.seen.saturating_add(buf.filled().len() - before);
        polled
    }
}

/// An answer that is written instead of another one.
struct Reworded {
    bytes: Vec<u8>,
    written: usize,
    /// Bytes of the other one.
    stands_for: usize,
}

/// The library answers what it cannot read by itself, with a status alone. All of the host's own errors have a body, so
/// one without is the library's. It gets the body that all errors have.
fn reword(head: &[u8]) -> Option<Reworded> {
    const EMPTY: &str = "content-length: 0\r\n";
    // Behind the minor version, which is the last request's.
    let error = match head.strip_prefix(b"HTTP/1.")?.get(1..5)? {
        b" 400" => Error::malformed_request(),
        b" 414" => Error::target_too_long(),
        b" 431" => Error::headers_too_large(),
        _ => return None,
    };
    let text = std::str::from_utf8(head).ok().filter(|text| text.ends_with("\r\n\r\n"))?;
    let (before, after) = text.split_once(EMPTY)?;
    let (code, body) = (error.code(), error.into_event());
    let length = body.len();
    let told = format!("content-type: application/json\r\ncarrel-error: {code}\r\ncontent-length: {length}\r\n");
    let bytes = [before, &told, after, &body].concat().into_bytes();
    Some(Reworded { bytes, written: 0, stands_for: head.len() })
}

/// Ends when the caller has gone away while its request is worked on, or its stream has not ended.
pub(super) async fn left(socket: &TcpStream, progress: &Progress) {
    loop {
        let seen = poll_fn(|cx| {
            if !progress.is_waited_for() {
                // The task is woken when that changes, since it is what does it.
                return Poll::Pending;
            }
            socket.poll_peek(cx, &mut ReadBuf::new(&mut [0]))
        });
        match seen.await {
            Ok(0) => break,
            // The next request, or what a client sends behind one, is here already, and the end cannot be seen behind it.
            Ok(_) => {
                tokio::select! {
                    _ = socket.ready(Interest::ERROR) => return,
                    () = sleep(ASK) => {}
                }
                match socket.ready(Interest::READABLE).await {
                    Ok(ready) if ready.is_read_closed() && progress.is_waited_for() => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            Err(_) => return,
        }
    }
    let mut asking = interval_at(Instant::now() + ASK, ASK);
    loop {
        tokio::select! {
            _ = socket.ready(Interest::ERROR) => return,
            _ = asking.tick() => {}
        }
        if progress.may_be_asked() {
            match socket.try_write(CONTINUE) {
                Ok(bytes) if bytes == CONTINUE.len() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Half of a line was taken: nothing can follow it.
                _ => return,
            }
        } else if progress.is_streaming() {
            progress.ask_in_stream();
            // The connection is looked at first, and sends the comment.
            yield_now().await;
        }
    }
}

/// Throws away what a caller still sends, until it closes or its time is over. If too much is to come, reads nothing,
/// and only gives the caller time to see the answer.
pub(super) async fn linger(socket: &TcpStream, progress: &Progress, memory: &Arc<Memory>) {
    let Some(left) = progress.left_unread() else { return };
    let _held = memory.charge(DISCARD);
    let reading = async {
        let mut rest = if left.is_some_and(|left| left > LINGER_BYTES) { 0 } else { LINGER_BYTES };
        let mut discarded = vec![0; DISCARD];
        while rest > 0 {
            if socket.readable().await.is_err() {
                return;
            }
            match socket.try_read(&mut discarded) {
                Ok(0) => return,
                Ok(bytes) => rest = rest.saturating_sub(bytes as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
        let _ = socket.ready(Interest::ERROR).await;
    };
    let _ = timeout(LINGER, reading).await;
}
