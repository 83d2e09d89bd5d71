//! Connections.

use crate::{Result, stop};
use std::{
    future::Future,
    io::Write,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The longest time that an answer may take, and that all connections together may be without any.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A persistent connection.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Header lines of all requests.
    headers: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    /// The fuel used, if the answer tells it.
    pub(crate) fuel: Option<u64>,
    /// Seconds, if the answer has the header.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// True if a function succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.status == 200 && self.body.starts_with(br#"{"success":true"#)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, headers: String::new(), request: Vec::new(), answer: Vec::with_capacity(4096) })
    }

    /// Opens a connection with an API key, in place of users' numbers.
    pub(crate) async fn open_with_key(address: SocketAddr, key: &str) -> Result<Self> {
        Ok(Self { headers: format!("X-API-Key: {key}\r\n"), ..Self::open(address).await? })
    }

    /// Calls the workflow as a user.
    pub(crate) async fn call(&mut self, user: u64, body: &str) -> Result<Answer<'_>> {
        self.ask("POST", "/generate", user, body).await
    }

    /// Sends any request. `%` in the body is replaced by the user's number.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, user: u64, body: &str) -> Result<Answer<'_>> {
        let replaced;
        let body = if body.contains('%') {
            replaced = body.replace('%', &user.to_string());
            &replaced
        } else {
            body
        };
        self.request.clear();
        let written = write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nCookie: nat-session=user-{user}\r\nContent-Type: \
             application/json\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.headers,
            body.len()
        );
        let sent = match written {
            Ok(()) => self.stream.write_all(&self.request).await,
            failed => failed,
        };
        sent.map_err(|error| format!("a request could not be sent: {error}"))?;
        self.receive().await
    }

    async fn receive(&mut self) -> Result<Answer<'_>> {
        self.answer.clear();
        let (status, [fuel, retry_after], from, length) = loop {
            self.read().await?;
            if let Some(head) = self.answer.windows(4).position(|end| end == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.answer[..head]);
                let status = text.get(9..12).and_then(|status| status.parse().ok());
                let find = |name| text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
                let (length, told) = (find("content-length: "), [find("carrel-fuel: "), find("retry-after: ")]);
                let unexpected = || format!("an answer without a status or a length: {text}");
                break (status.ok_or_else(unexpected)?, told, head + 4, length.ok_or_else(unexpected)? as usize);
            }
        };
        while self.answer.len() < from + length {
            self.read().await?;
        }
        Ok(Answer { status, fuel, retry_after, body: &self.answer[from..from + length] })
    }

    async fn read(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.answer).await {
            Ok(0) => Err("the server closed a connection".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("an answer could not be read: {error}")),
        }
    }

    /// Calls the workflow; returns the time and the answer, which must be a success.
    pub(crate) async fn timed(&mut self, user: u64, body: &str) -> Result<(Duration, String)> {
        let began = Instant::now();
        let answer = self.call(user, body).await?;
        let took = began.elapsed();
        if answer.is_success() {
            Ok((took, answer.text()))
        } else {
            Err(format!("user {user} asked {body} and was answered {}: {}", answer.status, answer.text()))
        }
    }

    /// Figures of `/metrics`, by their names without `carrel_`.
    pub(crate) async fn metrics<const N: usize>(&mut self, names: [&str; N]) -> Result<[u64; N]> {
        let text = self.ask("GET", "/metrics", 0, "").await?.text();
        let find = |name| {
            let rest =
                |line: &'_ str| line.strip_prefix("carrel_")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            text.lines().find_map(rest).ok_or_else(|| format!("/metrics has no carrel_{name}"))
        };
        let mut found = [0; N];
        for (value, name) in found.iter_mut().zip(names) {
            *value = find(name)?;
        }
        Ok(found)
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(what)
}

/// An answer that somebody waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    pub(crate) from: Instant,
    pub(crate) took: Duration,
}

/// Sends requests at a steady pace.
///
/// Requests that fall due while an answer is awaited are sent late, and their waits count from when they were due:
/// else a server that stalls for a second would have one slow answer among thousands.
pub(crate) async fn ask_steadily(
    mut connection: Connection,
    (method, path, body): (&str, &str, &str),
    every: Duration,
    until: impl Fn() -> bool,
) -> Result<Vec<Waited>> {
    let mut waited = Vec::new();
    let mut next = Instant::now();
    while !until() {
        stop::check()?;
        let now = Instant::now();
        if now < next {
            // A clock finer than the runtime's, which has nothing else to do.
            thread::sleep(next - now);
            // Oversleeping is not the server's fault, so it does not count.
            next = Instant::now();
        }
        let answer = timeout(PATIENCE, connection.ask(method, path, 0, body)).await;
        let answer = answer.map_err(|_| format!("{path}: no answer for {PATIENCE:?}"))??;
        if answer.status != 200 {
            return Err(format!("{path} was answered {}: {}", answer.status, answer.text()));
        }
        waited.push(Waited { from: next, took: next.elapsed() });
        next += every;
    }
    Ok(waited)
}
