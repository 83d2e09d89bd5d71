//! Load: two threads with 16 connections each, all of which send the next request as soon as they have the answer to
//! the last one. Each answer is checked: one that is no success ends the load.

use crate::{
    Result,
    client::{Connection, PATIENCE, block_on},
    server::Server,
    stop,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

const THREADS: u64 = 2;
const CONNECTIONS: u64 = 16;
/// The time that a load waits if a server has no room, and the number of tries.
const NO_ROOM: (Duration, usize) = (Duration::from_millis(20), 500);

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
