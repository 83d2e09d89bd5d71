//! The listening sockets: one for every address of a name, and one file descriptor in reserve for refusals.
//!
//! A process that has as many files open as it may cannot accept a connection, and so cannot refuse it either:
//! callers would wait until they give up. So one descriptor is kept in reserve. When there is no other, the reserve
//! is given up, the connection is accepted, answered and closed, and the reserve is taken again.

use socket2::SockRef;
use std::{
    fs::File,
    future::poll_fn,
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as Std},
    task::Poll,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    time::{Instant, sleep},
};

/// Connections that may wait to be accepted: as many as the system allows (`net.core.somaxconn`), to which it cuts this.
const BACKLOG: u32 = 1 << 20;
/// Tries to find a port that is free at all addresses.
const TRIES: usize = 10;
/// The wait after an error of the system's that may pass.
const AGAIN: Duration = Duration::from_millis(50);
/// The time without a shortage of descriptors after which the next one is logged as a new one.
const EPISODE: Duration = Duration::from_secs(10);

/// Sockets that are listened on, all with one port.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    /// The socket that is asked first, the next time.
    next: usize,
    reserve: Option<File>,
    /// The time of the last shortage of descriptors, and the connections refused since it began.
    short: Option<(Instant, u64)>,
}

/// A connection that was accepted.
pub(super) enum Arrived {
    Connection(TcpStream),
    /// A connection on the reserve descriptor, only to be refused.
    NoDescriptors(TcpStream),
}

impl From<TcpListener> for Listeners {
    fn from(socket: TcpListener) -> Self {
        Self::new(vec![socket])
    }
}

impl Listeners {
    fn new(sockets: Vec<TcpListener>) -> Self {
        Self { sockets, next: 0, reserve: reserve(), short: None }
    }

    /// Listens on each address that a name has on this machine, those of IPv4 first. Port 0 lets the system choose one
    /// for all of them.
    ///
    /// # Errors
    ///
    /// The name has no address, none of them is this machine's, or the port is taken at one of them.
    pub async fn bind(host: &str, port: u16) -> io::Result<Self> {
        let found = lookup_host((host, port)).await.map(Iterator::collect);
        let is_local = host.eq_ignore_ascii_case("localhost");
        // A container may have no file of hosts, and nobody to ask: this name is known all the same.
        let mut addresses: Vec<SocketAddr> = if is_local { found.unwrap_or_default() } else { found? };
        if is_local {
            // Many machines' files of hosts name one alone, and programs that do not read them try both (RFC 6761, 6.3).
            addresses.extend([SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()]);
        }
        addresses.sort_by_key(|address| (address.is_ipv6(), *address));
        addresses.dedup();
        let mut tries = 1..=TRIES;
        loop {
            let last = tries.next().is_none_or(|it| it == TRIES);
            match bind_all(&addresses) {
                // The port that the system chose at the first address is somebody's at another.
                Err(error) if port == 0 && !last && error.kind() == ErrorKind::AddrInUse => {}
                bound => return bound.map(Self::new),
            }
        }
    }

    /// The addresses of the sockets.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// Waits for the next connection, and through errors of the system that may pass.
    pub(super) async fn accept(&mut self) -> Arrived {
        loop {
            match self.accept_any().await {
                Ok(stream) => {
                    self.is_short(false);
                    return Arrived::Connection(stream);
                }
                Err(error) if is_out_of_descriptors(&error) => {
                    let had = self.reserve.take().is_some();
                    let accepted = if had { self.accept_now().await } else { None };
                    // The system says so before it looks whether anybody waits.
                    if accepted.is_some() || !had {
                        self.is_short(true);
                    }
                    if let Some(stream) = accepted {
                        return Arrived::NoDescriptors(stream);
                    }
                    self.restore();
                    sleep(AGAIN).await;
                }
                // The caller was gone before.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Takes the reserve again, after a connection that had it was closed.
    pub(super) fn restore(&mut self) {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
    }

    async fn accept_any(&mut self) -> io::Result<TcpStream> {
        poll_fn(|cx| {
            for tried in 0..self.sockets.len() {
                let at = (self.next + tried) % self.sockets.len();
                if let Poll::Ready(accepted) = self.sockets[at].poll_accept(cx) {
                    self.next = at + 1;
                    return Poll::Ready(accepted.map(|(stream, _)| stream));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Accepts a connection that waits already, and never waits for one.
    async fn accept_now(&mut self) -> Option<TcpStream> {
        tokio::select! {
            biased;
            accepted = self.accept_any() => accepted.ok(),
            () = std::future::ready(()) => None,
        }
    }

    /// Logs that descriptors have run out, once for each time, and that there are some again.
    fn is_short(&mut self, short: bool) {
        let now = Instant::now();
        match &mut self.short {
            None if short => {
                tracing::warn!(
                    "no file descriptor is left (ulimit -n): callers are turned away with too_many_connections"
                );
                self.short = Some((now, 1));
            }
            Some((last, count)) if short => (*last, *count) = (now, *count + 1),
            Some((last, count)) if now.duration_since(*last) > EPISODE => {
                tracing::info!(connections = *count, "there are file descriptors again; so many were turned away");
                self.short = None;
            }
            _ => {}
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// Listens on all addresses that are this machine's. Port 0 becomes that of the first.
fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut bound: Vec<TcpListener> = Vec::new();
    let mut missing = None;
    for address in addresses {
        let mut address = *address;
        if let (0, Some(first)) = (address.port(), bound.first()) {
            address.set_port(first.local_addr()?.port());
        }
        match listen(address, addresses.len() > 1) {
            Ok(socket) => bound.push(socket),
            Err(error) if is_not_here(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (bound.is_empty(), missing) {
        (false, _) => Ok(bound),
        (true, Some(error)) => Err(error),
        (true, None) => Err(io::Error::new(ErrorKind::NotFound, "the name has no address")),
    }
}

/// The machine does not have this address, or not this version of IP.
fn is_not_here(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn listen(address: SocketAddr, beside_others: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A host that is started again takes its port back at once.
    socket.set_reuseaddr(true)?;
    if beside_others && address.is_ipv6() {
        // Else `::` would take IPv4's addresses too.
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Reads of 4 KiB each that are made of a connection that is turned away.
const UNREAD: usize = 16;

/// Writes an answer to a connection that is not served, as far as the system takes it, and closes it.
pub(super) fn turn_away(stream: TcpStream, answer: &[u8]) {
    // The runtime has not yet been told that this one can be written to, and would not try.
    let Ok(mut stream): io::Result<Std> = stream.into_std() else { return };
    let _ = stream.write(answer);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // A connection closed with bytes unread is reset, and the reset may overtake the answer. More than a request's
    // head is not read: others want in.
    let mut unread = [0; 4096];
    for _ in 0..UNREAD {
        if !io::Read::read(&mut stream, &mut unread).is_ok_and(|read| read == unread.len()) {
            return;
        }
    }
}
