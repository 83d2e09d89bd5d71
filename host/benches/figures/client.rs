//! Connections, and load.
//!
//! Load comes from two threads with 16 connections each, all of which send the next request as soon as they have the
//! answer to the last one. Each answer is checked: one that is no success ends the load.

use crate::{Result, server::Server, stop};
use std::{
    future::Future,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

const THREADS: u64 = 2;
const CONNECTIONS: u64 = 16;
/// The longest time that an answer may take, and that all connections together may be without any.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time that a load waits if a server has no room, and the number of tries.
const NO_ROOM: (Duration, usize) = (Duration::from_millis(20), 500);

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

/// The requests that users send to a server.
pub(crate) struct Load<'a> {
    pub(crate) server: &'a Server,
    /// The number of the first user, and the number of users. They take turns.
    pub(crate) from: u64,
    pub(crate) users: u64,
    /// The calls that each user makes in its turn, one after the other.
    pub(crate) calls: &'static [&'static str],
    /// The load ends after at least so many turns and so much time.
    pub(crate) turns: u64,
    pub(crate) time: Duration,
}

/// A load's results.
pub(crate) struct Loaded {
    pub(crate) requests: u64,
    /// Requests that were sent again, because the server had no room.
    pub(crate) refused: u64,
    pub(crate) took: Duration,
    /// CPU that the server has used meanwhile.
    pub(crate) cpu: Duration,
    /// Answer times in microseconds, sorted.
    latencies: Vec<u32>,
}

impl Loaded {
    /// Microseconds of the server's CPU for a request.
    pub(crate) fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    /// A percentile of the answer times, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        self.latencies.get((self.latencies.len() - 1) * percent / 100).map_or(0.0, |it| f64::from(*it) / 1000.0)
    }
}

/// The state shared by the connections of a load.
struct Shared {
    address: SocketAddr,
    from: u64,
    users: u64,
    calls: &'static [&'static str],
    turns: u64,
    time: Duration,
    /// Set once all connections are open.
    began: OnceLock<Instant>,
    ready: Barrier,
    next: AtomicU64,
    answers: AtomicU64,
    refused: AtomicU64,
}

impl Load<'_> {
    pub(crate) fn run(&self) -> Result<Loaded> {
        let Load { server, from, users, calls, turns, time } = *self;
        let shared = Arc::new(Shared {
            address: server.address,
            from,
            users: users.max(1),
            calls,
            turns,
            time,
            began: OnceLock::new(),
            ready: Barrier::new(THREADS as usize + 1),
            next: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || block_on(connections(&shared)))
            })
            .collect();
        // What it costs to open the connections does not count.
        shared.ready.wait();
        let before = server.cpu();
        let began = *shared.began.get_or_init(Instant::now);
        shared.ready.wait();
        let mut latencies = Vec::new();
        let mut failed = None;
        for thread in threads {
            match thread.join() {
                Ok(Ok(mut more)) => latencies.append(&mut more),
                Ok(Err(why)) => failed = Some(why),
                Err(_) => failed = Some("a thread of the load panicked".into()),
            }
        }
        stop::check()?;
        if let Some(why) = failed {
            return Err(format!("{}: {why}\n{}", server.name, server.last_words()));
        }
        let took = began.elapsed();
        let cpu = server.cpu()?.since(&before?);
        latencies.sort_unstable();
        let requests = latencies.len() as u64;
        if requests == 0 {
            return Err(format!("{}: a load without requests", server.name));
        }
        Ok(Loaded { requests, refused: shared.refused.load(Ordering::Relaxed), took, cpu, latencies })
    }
}

/// Runs one thread's connections.
async fn connections(shared: &Arc<Shared>) -> Result<Vec<u32>> {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(Connection::open(shared.address).await);
    }
    // This thread has nothing else to do.
    shared.ready.wait();
    shared.ready.wait();
    let mut all = JoinSet::new();
    for connection in open {
        all.spawn(one_connection(connection?, shared.clone()));
    }
    let mut latencies = Vec::new();
    let mut looks = interval(Duration::from_millis(100));
    let mut progress = (0, Instant::now());
    loop {
        tokio::select! {
            done = all.join_next() => match done {
                None => return Ok(latencies),
                Some(Ok(one)) => latencies.append(&mut one?),
                Some(Err(panicked)) => return Err(panicked.to_string()),
            },
            _ = looks.tick() => {
                stop::check()?;
                let answers = shared.answers.load(Ordering::Relaxed);
                if answers > progress.0 {
                    progress = (answers, Instant::now());
                } else if progress.1.elapsed() > PATIENCE {
                    return Err(format!("no answer for {PATIENCE:?}"));
                }
            }
        }
    }
}

async fn one_connection(mut connection: Connection, shared: Arc<Shared>) -> Result<Vec<u32>> {
    let until = shared.began.get().map(|began| *began + shared.time);
    let mut latencies = Vec::new();
    loop {
        let turn = shared.next.fetch_add(1, Ordering::Relaxed);
        if turn >= shared.turns && until.is_none_or(|until| Instant::now() >= until) {
            return Ok(latencies);
        }
        let user = shared.from + turn % shared.users;
        for body in shared.calls {
            let mut left = NO_ROOM.1;
            loop {
                let began = Instant::now();
                let answer = connection.call(user, body).await?;
                if answer.is_success() {
                    latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                    shared.answers.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                if answer.status != 503 || left == 0 {
                    return Err(format!("{body} was answered {}: {}", answer.status, answer.text()));
                }
                left -= 1;
                shared.refused.fetch_add(1, Ordering::Relaxed);
                sleep(NO_ROOM.0).await;
            }
        }
    }
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
