//! The size of each measurement.

use clap::ValueEnum;
use std::time::Duration;

/// A size of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// The figures of the documents: some 30 minutes, and most of 24 GiB of memory
    Full,
    /// Fewer users, and shorter: some five minutes
    Quick,
    /// Whether all of it works: half a minute. Its figures mean nothing
    Smoke,
}

/// The numbers that belong to a size.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) size: Size,
    /// The time after which the run is given up.
    pub(crate) limit: Duration,
    /// Number of fresh starts of the servers for warm requests: the placement of a process's pages affects its times.
    pub(crate) starts: usize,
    /// Number and length of the measurements of each case on each of these servers, which take turns. What else runs on
    /// the machine changes from one second to the next, so that short rounds compare better than long ones.
    pub(crate) turns: usize,
    pub(crate) turn: Duration,
    /// Number and length of all other measurements that are made more than once.
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    /// Users that take turns at hot requests.
    pub(crate) in_turn: u64,
    /// Blocks of calls without a socket, with rollback and without.
    pub(crate) blocks: usize,
    /// Numbers of live users.
    pub(crate) live: &'static [u64],
    /// Numbers of parked users.
    pub(crate) parked: &'static [u64],
    /// Users whose first or waking requests are timed.
    pub(crate) sample: u64,
    /// Users that are parked and dropped while others ask for `/health`.
    pub(crate) idle: u64,
    /// Time for which guests spin.
    pub(crate) spin: Duration,
    /// Time that each attack lasts, each time.
    pub(crate) attack: Duration,
    /// Time for which a rate is watched.
    pub(crate) rate: Duration,
}

impl Plan {
    pub(crate) fn new(size: Size) -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let milliseconds = Duration::from_millis;
        match size {
            Size::Full => Self {
                size,
                limit: minutes(40),
                starts: 8,
                turns: 20,
                turn: milliseconds(120),
                rounds: 3,
                round: milliseconds(1000),
                in_turn: 1000,
                blocks: 1000,
                live: &[1_000, 10_000, 100_000],
                parked: &[1_000, 10_000, 100_000, 1_000_000],
                sample: 1000,
                idle: 100_000,
                spin: milliseconds(6000),
                attack: milliseconds(400),
                rate: milliseconds(10_000),
            },
            Size::Quick => Self {
                size,
                limit: minutes(12),
                starts: 4,
                turns: 8,
                turn: milliseconds(120),
                rounds: 1,
                round: milliseconds(800),
                in_turn: 1000,
                blocks: 300,
                live: &[1_000, 10_000],
                parked: &[1_000, 10_000],
                sample: 500,
                idle: 10_000,
                spin: milliseconds(4000),
                attack: milliseconds(250),
                rate: milliseconds(3000),
            },
            Size::Smoke => Self {
                size,
                limit: minutes(3),
                starts: 1,
                turns: 2,
                turn: milliseconds(100),
                rounds: 1,
                round: milliseconds(200),
                in_turn: 100,
                blocks: 10,
                live: &[100, 300],
                parked: &[100, 300],
                sample: 50,
                idle: 300,
                spin: milliseconds(1500),
                attack: milliseconds(100),
                rate: milliseconds(500),
            },
        }
    }

    /// The most live users.
    pub(crate) fn most_live(&self) -> u64 {
        self.live.last().copied().unwrap_or_default()
    }

    /// The most parked users.
    pub(crate) fn most_parked(&self) -> u64 {
        self.parked.last().copied().unwrap_or_default()
    }
}
